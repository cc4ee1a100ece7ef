package ttrpc_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"kata/api/ttrpc"
)

// scripted is a server that answers each request with the frame that the script
// makes for its stream.
func scripted(t *testing.T, script func(n int, stream uint32) []byte) *ttrpc.Client {
	return scriptedBounded(t, ttrpc.MaxMessage, script)
}

// scriptedBounded is scripted for a client that takes answers up to maxAnswer.
func scriptedBounded(t *testing.T, maxAnswer int, script func(n int, stream uint32) []byte) *ttrpc.Client {
	near, far := net.Pipe()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for n := 0; ; n++ {
			var header [10]byte
			if _, err := io.ReadFull(far, header[:]); err != nil {
				return
			}
			if _, err := io.CopyN(io.Discard, far, int64(binary.BigEndian.Uint32(header[:]))); err != nil {
				return
			}
			if _, err := far.Write(script(n, binary.BigEndian.Uint32(header[4:]))); err != nil {
				return
			}
		}
	}()
	c := ttrpc.NewBoundedClient(near, maxAnswer)
	t.Cleanup(func() {
		_ = c.Close()
		_ = far.Close()
		<-ended
	})
	return c
}

func frame(length, stream uint32, kind byte, body string) []byte {
	b := binary.BigEndian.AppendUint32(nil, length)
	b = binary.BigEndian.AppendUint32(b, stream)
	return append(append(b, kind, 0), body...)
}

func TestClientAnswers(t *testing.T) {
	good := func(stream uint32) []byte { return frame(6, stream, 2, "\x12\x04\x0a\x02ok") }
	table := []struct {
		name   string
		answer func(stream uint32) []byte
		code   ttrpc.Code
		text   string
	}{
		{"a payload", good, ttrpc.OK, "ok"},
		{"nothing at all", func(s uint32) []byte { return frame(0, s, 2, "") }, ttrpc.OK, ""},
		{"a status OK beside a payload", func(s uint32) []byte { return frame(10, s, 2, "\x0a\x02\x08\x00\x12\x04\x0a\x02ok") }, ttrpc.OK, "ok"},
		{"a status with details", func(s uint32) []byte { return frame(12, s, 2, "\x0a\x0a\x08\x05\x12\x02no\x1a\x02xx") }, ttrpc.NotFound, "no"},
		{"a status without text", func(s uint32) []byte { return frame(4, s, 2, "\x0a\x02\x08\x05") }, ttrpc.NotFound, "NotFound"},
		{"a malformed answer", func(s uint32) []byte { return frame(2, s, 2, "\x0a\x09") }, ttrpc.Internal, "malformed"},
		{"a malformed status", func(s uint32) []byte { return frame(3, s, 2, "\x0a\x01\xff") }, ttrpc.Internal, "malformed"},
		{"a malformed payload", func(s uint32) []byte { return frame(4, s, 2, "\x12\x02\x0a\x09") }, ttrpc.Internal, "decoding answer"},
		{"a stream", func(s uint32) []byte { return frame(1, s, 3, "x") }, ttrpc.Internal, "stream"},
		{"too much", func(s uint32) []byte {
			return frame(ttrpc.MaxMessage+1, s, 2, strings.Repeat("x", ttrpc.MaxMessage+1))
		}, ttrpc.ResourceExhausted, "exceeds"},
		{"an answer nobody asked for before the real one", func(s uint32) []byte {
			return append(frame(3, s+100, 2, "???"), good(s)...)
		}, ttrpc.OK, "ok"},
		{"an unknown type before the real one", func(s uint32) []byte {
			return append(frame(3, s, 77, "???"), good(s)...)
		}, ttrpc.OK, "ok"},
		{"two answers", func(s uint32) []byte { return append(good(s), good(s)...) }, ttrpc.OK, "ok"},
		{"a payload again", good, ttrpc.OK, "ok"},
	}
	c := scripted(t, func(n int, stream uint32) []byte { return table[n].answer(stream) })
	for _, tt := range table {
		got, err := call(t.Context(), c, "Any", "")
		if ttrpc.CodeOf(err) != tt.code {
			t.Errorf("%s: %v, want %v", tt.name, err, tt.code)
		} else if err != nil {
			got = err.Error()
		}
		if !strings.Contains(got, tt.text) {
			t.Errorf("%s: %.100q, want %q", tt.name, got, tt.text)
		}
	}
}

func TestBoundedClientRefusesLargeAnswersAndGoesOn(t *testing.T) {
	const bound = 1000
	c := scriptedBounded(t, bound, func(n int, stream uint32) []byte {
		if n == 0 {
			return frame(bound+1, stream, 2, strings.Repeat("x", bound+1))
		}
		return frame(6, stream, 2, "\x12\x04\x0a\x02ok")
	})
	if _, err := call(t.Context(), c, "Any", ""); ttrpc.CodeOf(err) != ttrpc.ResourceExhausted || !strings.Contains(err.Error(), "exceeds 1000") {
		t.Errorf("large answer: %v", err)
	}
	if got, err := call(t.Context(), c, "Any", ""); err != nil || got != "ok" {
		t.Errorf("the next call: %q, %v", got, err)
	}
}

func TestClientLosesConnection(t *testing.T) {
	for name, tt := range map[string]struct {
		answer string
		err    error
	}{
		"between frames":             {"", ttrpc.ErrClosed},
		"within a header":            {"\x00\x00", io.ErrUnexpectedEOF},
		"within a body":              {"\x00\x00\x00\x09\x00\x00\x00\x01\x02\x00abc", io.ErrUnexpectedEOF},
		"within an oversized answer": {"\xff\x00\x00\x09\x00\x00\x00\x01\x02\x00abc", io.ErrUnexpectedEOF},
	} {
		t.Run(name, func(t *testing.T) {
			near, far := net.Pipe()
			c := ttrpc.NewClient(near)
			defer c.Close()
			if c.Err() != nil {
				t.Errorf("before: %v", c.Err())
			}
			go func() {
				_, _ = far.Read(make([]byte, 1000))
				_, _ = far.Write([]byte(tt.answer))
				_ = far.Close()
			}()
			_, err := call(t.Context(), c, "Any", "")
			<-c.Done()
			for what, err := range map[string]error{"call": err, "Err": c.Err()} {
				if !errors.Is(err, ttrpc.ErrClosed) || !errors.Is(err, tt.err) || ttrpc.CodeOf(err) != ttrpc.Unavailable {
					t.Errorf("%s: %v, want %v and %v", what, err, ttrpc.ErrClosed, tt.err)
				}
			}
		})
	}
}

func TestClientWriteFails(t *testing.T) {
	near, far := net.Pipe()
	broken := errors.New("broken")
	c := ttrpc.NewClient(failingWriter{near, broken})
	defer c.Close()
	defer far.Close()
	if _, err := call(t.Context(), c, "Any", ""); !errors.Is(err, broken) || !errors.Is(err, ttrpc.ErrClosed) {
		t.Errorf("call: %v", err)
	}
}

type failingWriter struct {
	net.Conn
	err error
}

func (w failingWriter) Write([]byte) (int, error) { return 0, w.err }

// TestClientPeerDoesNotRead shows that calls end with their contexts when
// nothing can be sent, and that what waits is bounded.
func TestClientPeerDoesNotRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		c := ttrpc.NewClient(near)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		var calls sync.WaitGroup
		for range 20 {
			calls.Go(func() {
				if _, err := call(ctx, c, "Any", strings.Repeat("x", 1<<20)); !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("call: %v", err)
				}
			})
		}
		start := time.Now()
		calls.Wait()
		if took := time.Since(start); took != time.Second {
			t.Errorf("took %v", took)
		}
		// What was not queued within the bound was never sent.
		_ = c.Close()
		sent, _ := io.Copy(io.Discard, far)
		if sent > 4<<20 {
			t.Errorf("%d bytes were queued", sent)
		}
	})
}

// TestClientQueueEmpties shows that calls that wait for room go on.
func TestClientQueueEmpties(t *testing.T) {
	c := connect(t, standard(ttrpc.NewServer(ttrpc.ServerOptions{})))
	arg := strings.Repeat("x", 1<<20)
	var calls sync.WaitGroup
	for range 20 {
		calls.Go(func() {
			if got, err := call(t.Context(), c, "Echo", arg); err != nil || got != arg {
				t.Errorf("%d bytes, %v", len(got), err)
			}
		})
	}
	calls.Wait()
}

func TestClientCloseWhileWaitingForRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		c := ttrpc.NewClient(near)
		var calls sync.WaitGroup
		for range 10 {
			calls.Go(func() {
				if _, err := call(t.Context(), c, "Any", strings.Repeat("x", 1<<20)); !errors.Is(err, ttrpc.ErrClosed) {
					t.Errorf("call: %v", err)
				}
			})
		}
		synctest.Wait()
		_ = c.Close()
		_ = c.Close()
		calls.Wait()
		_ = far.Close()
	})
}

func TestClientDeadContext(t *testing.T) {
	c := connect(t, standard(ttrpc.NewServer(ttrpc.ServerOptions{})))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := call(ctx, c, "Echo", ""); !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "test.Service/Echo") {
		t.Errorf("call: %v", err)
	}
}

// TestClientLeavesAnswerAlone shows, under the race detector, that the answer
// of a call that was given up is not written to afterwards.
func TestClientLeavesAnswerAlone(t *testing.T) {
	c := connect(t, standard(ttrpc.NewServer(ttrpc.ServerOptions{})))
	for range 2000 {
		ctx, cancel := context.WithCancel(t.Context())
		go cancel()
		resp := new(response)
		err := c.Call(ctx, testService, "Echo", &request{ContainerId: "x"}, resp)
		if got := resp.Metrics; (err == nil) != (got == "x") {
			t.Fatalf("answer %q with error %v", got, err)
		}
		resp.Metrics = "mine"
	}
}

func TestCodes(t *testing.T) {
	for _, tt := range []struct {
		err  error
		code ttrpc.Code
	}{
		{nil, ttrpc.OK},
		{errors.New("x"), ttrpc.Unknown},
		{context.Canceled, ttrpc.Canceled},
		{fmt.Errorf("waiting: %w", context.DeadlineExceeded), ttrpc.DeadlineExceeded},
		{fmt.Errorf("x: %w", &fs.PathError{Op: "open", Path: "y", Err: fs.ErrExist}), ttrpc.AlreadyExists},
		{fs.ErrPermission, ttrpc.PermissionDenied},
		{fs.ErrInvalid, ttrpc.InvalidArgument},
		{ttrpc.ErrClosed, ttrpc.Unavailable},
		{fmt.Errorf("x: %w", ttrpc.Errorf(ttrpc.Aborted, "y: %w", fs.ErrExist)), ttrpc.Aborted},
	} {
		if got := ttrpc.CodeOf(tt.err); got != tt.code {
			t.Errorf("CodeOf(%v) = %v, want %v", tt.err, got, tt.code)
		}
	}
	if got := ttrpc.Unauthenticated.String() + " " + ttrpc.Code(17).String() + " " + ttrpc.Code(math.MaxUint32).String(); got != "Unauthenticated Code(17) Code(4294967295)" {
		t.Error(got)
	}
	remote := ttrpc.Errorf(ttrpc.DeadlineExceeded, "too slow")
	if !errors.Is(remote, context.DeadlineExceeded) || errors.Is(remote, context.Canceled) {
		t.Error("a remote time-out does not look like a local one")
	}
}
