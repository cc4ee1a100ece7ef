package ttrpc_test

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/encoding/protowire"

	"kata/api/agentpb"
	"kata/api/ttrpc"
)

// raw is a client that can send anything.
type raw struct {
	t    *testing.T
	conn net.Conn
}

func dialRaw(t *testing.T, s *ttrpc.Server) raw {
	near, far := net.Pipe()
	served := make(chan error, 1)
	go func() { served <- s.ServeConn(context.Background(), far) }()
	t.Cleanup(func() {
		_ = near.Close()
		<-served
	})
	return raw{t, near}
}

// send sends a frame without waiting for the server to take it.
func (r raw) send(stream uint32, kind, flags byte, body []byte) {
	frame := binary.BigEndian.AppendUint32(nil, uint32(len(body)))
	frame = binary.BigEndian.AppendUint32(frame, stream)
	frame = append(append(frame, kind, flags), body...)
	go func() { _, _ = r.conn.Write(frame) }()
}

// want reads the next answer.
func (r raw) want(stream uint32, code ttrpc.Code, text string) {
	r.t.Helper()
	var header [10]byte
	if _, err := io.ReadFull(r.conn, header[:]); err != nil {
		r.t.Fatalf("reading answer: %v", err)
	}
	body := make([]byte, binary.BigEndian.Uint32(header[:]))
	if _, err := io.ReadFull(r.conn, body); err != nil {
		r.t.Fatalf("reading answer: %v", err)
	}
	if got := binary.BigEndian.Uint32(header[4:]); got != stream || header[8] != 2 {
		r.t.Errorf("answer of type %d on stream %d, want 2 on %d", header[8], got, stream)
	}
	status, payload := fields(r.t, body)
	if code == ttrpc.OK {
		if status != nil || !strings.Contains(string(payload), text) {
			r.t.Errorf("answer %q with status %q, want %q", payload, status, text)
		}
		return
	}
	n, size := protowire.ConsumeVarint(status[1:])
	if ttrpc.Code(n) != code || !strings.Contains(string(status[1+size:]), text) {
		r.t.Errorf("status %v %q, want %v %q", ttrpc.Code(n), status[1+size:], code, text)
	}
}

// fields splits a Response.
func fields(t *testing.T, body []byte) (status, payload []byte) {
	for len(body) > 0 {
		number, _, n := protowire.ConsumeTag(body)
		if n < 0 {
			t.Fatalf("malformed answer %q", body)
		}
		value, m := protowire.ConsumeBytes(body[n:])
		if m < 0 {
			t.Fatalf("malformed answer %q", body)
		}
		if number == 1 {
			status = value
		} else {
			payload = value
		}
		body = body[n+m:]
	}
	return status, payload
}

// echoRequest is the body of a request for Echo.
func echoRequest(arg string) []byte {
	payload := protowire.AppendString(protowire.AppendTag(nil, 1, protowire.BytesType), arg)
	b := protowire.AppendString(protowire.AppendTag(nil, 1, protowire.BytesType), testService)
	b = protowire.AppendString(protowire.AppendTag(b, 2, protowire.BytesType), "Echo")
	return protowire.AppendBytes(protowire.AppendTag(b, 3, protowire.BytesType), payload)
}

func TestServerFrames(t *testing.T) {
	r := dialRaw(t, standard(ttrpc.NewServer(ttrpc.ServerOptions{})))
	r.send(1, 1, 0, echoRequest("one"))
	r.want(1, ttrpc.OK, "one")
	r.send(2, 1, 0, echoRequest("even"))
	r.want(2, ttrpc.InvalidArgument, "odd")
	r.send(1, 1, 0, echoRequest("again"))
	r.want(1, ttrpc.InvalidArgument, "increase")
	r.send(9, 1, 0, echoRequest("a gap is fine"))
	r.want(9, ttrpc.OK, "a gap")
	r.send(7, 1, 0, echoRequest("but not backwards"))
	r.want(7, ttrpc.InvalidArgument, "increase")
	r.send(11, 3, 1, nil)
	r.want(11, ttrpc.InvalidArgument, "not active")
	r.send(11, 1, 0, []byte("\xff\xff\xff"))
	r.want(11, ttrpc.InvalidArgument, "malformed")
	r.send(13, 1, 0, nil)
	r.want(13, ttrpc.Unimplemented, "service")
	r.send(15, 1, 0, []byte("\x0a\x0ctest.Service\x12\x04Echo\x1a\x02\x0a\x09"))
	r.want(15, ttrpc.InvalidArgument, "decoding Echo")
	r.send(17, 1, 0, append(echoRequest("unknown fields are skipped"), "\x50\x01\x5d1234\x51abcdefgh\x5a\x03abc"...))
	r.want(17, ttrpc.OK, "skipped")
	r.send(19, 1, 0, append(echoRequest("x"), "\x5bgroups are not\x5c"...))
	r.want(19, ttrpc.InvalidArgument, "malformed")
	r.send(21, 1, 0, append(echoRequest("x"), strings.Repeat("\x2a\x00", 129)...))
	r.want(21, ttrpc.InvalidArgument, "metadata")
	r.send(23, 2, 0, []byte("a response to a server"))
	r.send(25, 99, 0, nil) // both are ignored, like types to come
	r.send(27, 1, 2|4, echoRequest("flags do not matter"))
	r.want(27, ttrpc.OK, "flags")
	r.send(29, 1, 0, make([]byte, ttrpc.MaxMessage+1))
	r.want(29, ttrpc.ResourceExhausted, "exceeds")
	r.send(31, 1, 0, echoRequest("alive"))
	r.want(31, ttrpc.OK, "alive")
}

func TestServerBoundsRequestsInFlight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := connect(t, standard(ttrpc.NewServer(ttrpc.ServerOptions{MaxInFlight: 3})))
		ctx, cancel := context.WithCancel(t.Context())
		var blocked sync.WaitGroup
		for range 3 {
			blocked.Go(func() { _, _ = call(ctx, c, "Block", "") })
		}
		synctest.Wait()
		if _, err := call(t.Context(), c, "Echo", ""); ttrpc.CodeOf(err) != ttrpc.ResourceExhausted {
			t.Errorf("fourth request: %v, want ResourceExhausted", err)
		}
		cancel()
		blocked.Wait()
		// The callers are gone, the handlers are not: ttRPC cannot cancel.
		if _, err := call(t.Context(), c, "Echo", ""); ttrpc.CodeOf(err) != ttrpc.ResourceExhausted {
			t.Errorf("fifth request: %v, want ResourceExhausted", err)
		}
	})
}

func TestServerCountsOnlyWhatIsInFlight(t *testing.T) {
	c := connect(t, standard(ttrpc.NewServer(ttrpc.ServerOptions{MaxInFlight: 1, MaxPayload: 10})))
	for range 10000 {
		if _, err := call(t.Context(), c, "Echo", "longer than ten bytes"); err != nil {
			t.Fatal(err)
		}
	}
}

func TestServerBoundsPayload(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := connect(t, standard(ttrpc.NewServer(ttrpc.ServerOptions{MaxPayload: 1000})))
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		var blocked sync.WaitGroup
		blocked.Go(func() { _, _ = call(ctx, c, "Block", strings.Repeat("x", 2000)) })
		synctest.Wait()
		if _, err := call(t.Context(), c, "Echo", "x"); ttrpc.CodeOf(err) != ttrpc.ResourceExhausted {
			t.Errorf("beside a large request: %v, want ResourceExhausted", err)
		}
		blocked.Wait()
		synctest.Wait()
		if _, err := call(t.Context(), c, "Echo", "x"); err != nil {
			t.Errorf("after it: %v", err)
		}
	})
}

func TestServerBoundsConnections(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newListener()
		s := standard(ttrpc.NewServer(ttrpc.ServerOptions{MaxConns: 1}))
		served := make(chan error, 1)
		go func() { served <- s.Serve(t.Context(), l) }()
		first, second := ttrpc.NewClient(l.dial()), ttrpc.NewClient(l.dial())
		<-second.Done()
		if _, err := call(t.Context(), first, "Echo", ""); err != nil {
			t.Errorf("first connection: %v", err)
		}
		_ = first.Close()
		synctest.Wait()
		third := ttrpc.NewClient(l.dial())
		if _, err := call(t.Context(), third, "Echo", ""); err != nil {
			t.Errorf("third connection: %v", err)
		}
		_, _ = second.Close(), third.Close()
		_ = s.Close()
		if err := <-served; !errors.Is(err, ttrpc.ErrServerClosed) {
			t.Errorf("serve: %v", err)
		}
	})
}

func TestServerSurvivesHandlers(t *testing.T) {
	var panicked []any
	s := standard(ttrpc.NewServer(ttrpc.ServerOptions{OnPanic: func(service, method string, v any) {
		panicked = append(panicked, service, method, v)
	}}))
	handle(s, "Panic", func(context.Context, string) (string, error) { panic("the matter is this") })
	handle(s, "Goexit", func(context.Context, string) (string, error) {
		runtime.Goexit()
		return "", nil
	})
	handle(s, "OK", func(context.Context, string) (string, error) { return "", ttrpc.Errorf(ttrpc.OK, "not so") })
	handle(s, "Large", func(context.Context, string) (string, error) { return strings.Repeat("x", ttrpc.MaxMessage), nil })
	handle(s, "Binary", func(context.Context, string) (string, error) { return "", errors.New("bad \xff\xfe bytes") })
	handle(s, "Long", func(context.Context, string) (string, error) {
		return "", errors.New(strings.Repeat("é", ttrpc.MaxMessage))
	})
	s.Handle(testService, "Nil", always(nil))
	s.Handle(testService, "TypedNil", always((*response)(nil)))
	s.Handle(testService, "Broken", always(brokenMessage{}))
	c := connect(t, s)
	for _, tt := range []struct {
		method string
		code   ttrpc.Code
		text   string
	}{
		{"Panic", ttrpc.Internal, "the matter is this"},
		{"Goexit", ttrpc.Internal, "without an answer"},
		{"OK", ttrpc.Unknown, "not so"},
		{"Large", ttrpc.ResourceExhausted, "exceeds"},
		{"Binary", ttrpc.Unknown, "bad \uFFFD bytes"},
		{"Long", ttrpc.Unknown, "éé"},
		{"Nil", ttrpc.OK, ""},
		{"TypedNil", ttrpc.OK, ""},
		{"Broken", ttrpc.Internal, "encoding message panicked"},
		{"Echo", ttrpc.OK, ""},
	} {
		_, err := call(t.Context(), c, tt.method, "")
		if ttrpc.CodeOf(err) != tt.code || tt.code != ttrpc.OK && !strings.Contains(err.Error(), tt.text) {
			t.Errorf("%s: %v %.100v, want %v %q", tt.method, ttrpc.CodeOf(err), err, tt.code, tt.text)
		}
	}
	if len(panicked) != 3 || panicked[1] != "Panic" || panicked[2] != "the matter is this" {
		t.Errorf("OnPanic got %v", panicked)
	}
}

// brokenMessage cannot be encoded.
type brokenMessage struct{ response }

func (brokenMessage) SizeVT() int                                { return 3 }
func (brokenMessage) MarshalToSizedBufferVT([]byte) (int, error) { panic("changed meanwhile") }
func (brokenMessage) UnmarshalVT([]byte) error                   { return nil }

func TestServerShutdown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := standard(ttrpc.NewServer(ttrpc.ServerOptions{}))
		release := make(chan struct{})
		handle(s, "Work", func(context.Context, string) (string, error) {
			<-release
			return "done", nil
		})
		c := connect(t, s)
		result := make(chan string)
		go func() {
			got, err := call(t.Context(), c, "Work", "")
			if err != nil {
				t.Errorf("in progress at shutdown: %v", err)
			}
			result <- got
		}()
		synctest.Wait()
		down := make(chan error)
		go func() { down <- s.Shutdown(t.Context()) }()
		synctest.Wait()
		if _, err := call(t.Context(), c, "Echo", ""); ttrpc.CodeOf(err) != ttrpc.Unavailable {
			t.Errorf("new request during shutdown: %v, want Unavailable", err)
		}
		close(release)
		if got := <-result; got != "done" {
			t.Errorf("answer %q", got)
		}
		if err := <-down; err != nil {
			t.Errorf("shutdown: %v", err)
		}
		<-c.Done()
		if err := s.ServeConn(t.Context(), nopConn{}); !errors.Is(err, ttrpc.ErrServerClosed) {
			t.Errorf("serving afterwards: %v", err)
		}
	})
}

type nopConn struct{ io.ReadWriter }

func (nopConn) Close() error { return nil }

func TestServerShutdownGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := standard(ttrpc.NewServer(ttrpc.ServerOptions{}))
		c := connect(t, s)
		result := make(chan error)
		go func() {
			_, err := call(t.Context(), c, "Block", "")
			result <- err
		}()
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := s.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("shutdown: %v", err)
		}
		// The handler's context ends with the connection: either may be first.
		if err := <-result; !errors.Is(err, ttrpc.ErrClosed) && ttrpc.CodeOf(err) != ttrpc.Canceled {
			t.Errorf("cut off: %v", err)
		}
	})
}

func TestServeConnErrors(t *testing.T) {
	serve := func(ctx context.Context, near func(net.Conn)) error {
		a, b := net.Pipe()
		go near(a)
		return standard(ttrpc.NewServer(ttrpc.ServerOptions{})).ServeConn(ctx, b)
	}
	if err := serve(t.Context(), func(c net.Conn) { _ = c.Close() }); err != nil {
		t.Errorf("closed between frames: %v, want nil", err)
	}
	err := serve(t.Context(), func(c net.Conn) {
		_, _ = c.Write([]byte{0, 0, 0, 9, 0, 0, 0, 1, 1, 0, 'x'})
		_ = c.Close()
	})
	if !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("closed within a frame: %v, want %v", err, io.ErrUnexpectedEOF)
	}
	err = serve(t.Context(), func(c net.Conn) {
		_, _ = c.Write([]byte{0xff, 0xff, 0xff, 0xff, 0, 0, 0, 1, 1, 0, 'x'})
		_ = c.Close()
	})
	if !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("closed within an oversized frame: %v, want %v", err, io.ErrUnexpectedEOF)
	}
	reason := errors.New("the reason")
	ctx, cancel := context.WithCancelCause(t.Context())
	if err := serve(ctx, func(net.Conn) { cancel(reason) }); !errors.Is(err, reason) {
		t.Errorf("cancelled: %v, want %v", err, reason)
	}
}

// TestTyped goes through generated code in both directions.
func TestTyped(t *testing.T) {
	s := ttrpc.NewServer(ttrpc.ServerOptions{})
	agentpb.RegisterAgentService(s).WaitProcess(func(_ context.Context, req *agentpb.WaitProcessRequest) (*agentpb.WaitProcessResponse, error) {
		if req.ExecId != "e1" {
			return nil, ttrpc.Errorf(ttrpc.NotFound, "no process %q", req.ExecId)
		}
		return &agentpb.WaitProcessResponse{Status: 42, StdoutBytes: 7, ExitedAt: 1}, nil
	})
	client := agentpb.NewAgentServiceClient(connect(t, s))
	resp, err := client.WaitProcess(t.Context(), &agentpb.WaitProcessRequest{ContainerId: "c", ExecId: "e1"})
	if err != nil || resp.Status != 42 || resp.StdoutBytes != 7 || resp.ExitedAt != 1 {
		t.Errorf("got %+v, %v", resp, err)
	}
	_, err = client.WaitProcess(t.Context(), &agentpb.WaitProcessRequest{ExecId: "e2"})
	var remote *ttrpc.Error
	if !errors.As(err, &remote) || remote.Code != ttrpc.NotFound || remote.Message != `no process "e2"` {
		t.Errorf("unknown process: %#v", err)
	}
	if _, err := client.PauseContainer(t.Context(), new(agentpb.PauseContainerRequest)); ttrpc.CodeOf(err) != ttrpc.Unimplemented {
		t.Errorf("not registered: %v", err)
	}
}
