package ttrpc_test

import (
	"context"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"kata/api/ttrpc"
	"kata/api/wire"
)

// own is how many requests of a connection do not depend on the others.
const own = 16

func TestServerBoundsRequestsOfAllConnections(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const total = 3 * own
		s := standard(ttrpc.NewServer(ttrpc.ServerOptions{MaxTotal: total}))
		first, second := connect(t, s), connect(t, s)
		var blocked sync.WaitGroup
		block := func(c *ttrpc.Client, n int) {
			for range n {
				blocked.Go(func() { _, _ = call(t.Context(), c, "Block", "") })
			}
			synctest.Wait()
		}
		block(first, total)
		_, err := call(t.Context(), first, "Echo", "")
		if ttrpc.CodeOf(err) != ttrpc.ResourceExhausted || !strings.Contains(err.Error(), "48 requests") {
			t.Errorf("one more: %v, want ResourceExhausted that says how many there may be", err)
		}
		block(second, own-1)
		if _, err := call(t.Context(), second, "Echo", ""); err != nil {
			t.Errorf("another client is shut out: %v", err)
		}
		block(second, 1)
		if _, err := call(t.Context(), second, "Echo", ""); ttrpc.CodeOf(err) != ttrpc.ResourceExhausted {
			t.Errorf("one more than its own: %v", err)
		}
		_ = first.Close() // cancels what it waited for
		synctest.Wait()
		if _, err := call(t.Context(), second, "Echo", ""); err != nil {
			t.Errorf("after the first client has gone: %v", err)
		}
		_ = second.Close()
		blocked.Wait()
	})
}

func TestServerBoundsPayloadOfAllConnections(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := standard(ttrpc.NewServer(ttrpc.ServerOptions{MaxTotalPayload: 1 << 20}))
		first, second := connect(t, s), connect(t, s)
		var blocked sync.WaitGroup
		blocked.Go(func() { _, _ = call(t.Context(), first, "Block", strings.Repeat("x", 900<<10)) })
		synctest.Wait()
		_, err := call(t.Context(), second, "Echo", strings.Repeat("x", 300<<10))
		if ttrpc.CodeOf(err) != ttrpc.ResourceExhausted || !strings.Contains(err.Error(), "1048576 bytes") {
			t.Errorf("a large request: %v, want ResourceExhausted that says how much may be", err)
		}
		if _, err := call(t.Context(), second, "Echo", strings.Repeat("x", 200<<10)); err != nil {
			t.Errorf("a request within its own: %v", err)
		}
		_ = first.Close()
		blocked.Wait()
	})
}

// gated is a connection from which nothing can be read until the gate opens.
type gated struct {
	net.Conn
	gate chan struct{}
}

func (g gated) Read(p []byte) (int, error) {
	<-g.gate
	return g.Conn.Read(p)
}

func TestAnswersThatNobodyReadsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := standard(ttrpc.NewServer(ttrpc.ServerOptions{MaxAnswers: 250_000}))
		near, far := net.Pipe()
		served := make(chan error, 1)
		go func() { served <- s.ServeConn(context.Background(), far) }()
		gate := make(chan struct{})
		c := ttrpc.NewClient(gated{near, gate})
		const calls = 10
		codes := make(chan ttrpc.Code, calls)
		for range calls {
			go func() {
				_, err := call(t.Context(), c, "Echo", strings.Repeat("x", 100_000))
				codes <- ttrpc.CodeOf(err)
			}()
		}
		synctest.Wait() // all have been handled; one answer is on its way
		close(gate)
		got := make(map[ttrpc.Code]int)
		for range calls {
			got[<-codes]++
		}
		if got[ttrpc.OK] != 3 || got[ttrpc.ResourceExhausted] != 7 {
			t.Errorf("answers by code: %v, want three that are OK, the one on its way and two that wait, and seven refused", got)
		}
		if _, err := call(t.Context(), c, "Echo", strings.Repeat("x", 100_000)); err != nil {
			t.Errorf("after all have been read: %v", err)
		}
		_ = c.Close()
		<-served
	})
}

// many is a message with so many fields, each of two bytes.
type many int

func (m many) SizeVT() int { return 2 * int(m) }

func (m many) MarshalToSizedBufferVT(b []byte) (int, error) {
	copy(b[len(b)-m.SizeVT():], strings.Repeat("\x0a\x00", int(m)))
	return m.SizeVT(), nil
}

func (many) UnmarshalVT([]byte) error { return nil }

func TestServerBoundsFields(t *testing.T) {
	c := connect(t, standard(ttrpc.NewServer(ttrpc.ServerOptions{})))
	if err := c.Call(t.Context(), testService, "Echo", many(wire.MaxFields), many(0)); err != nil {
		t.Errorf("as many as there may be: %v", err)
	}
	err := c.Call(t.Context(), testService, "Echo", many(wire.MaxFields+1), many(0))
	if ttrpc.CodeOf(err) != ttrpc.ResourceExhausted || !strings.Contains(err.Error(), "fields") {
		t.Errorf("one more: %v, want ResourceExhausted", err)
	}
}

func TestHalfAFrameTakesNoMoreThanHasCome(t *testing.T) {
	s := standard(ttrpc.NewServer(ttrpc.ServerOptions{}))
	result := testing.Benchmark(func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			near, far := net.Pipe()
			served := make(chan error, 1)
			go func() { served <- s.ServeConn(context.Background(), far) }()
			// A header that announces 4 MiB, and a little of that.
			if _, err := io.WriteString(near, "\x00\x40\x00\x00\x00\x00\x00\x01\x01\x00abc"); err != nil {
				b.Fatal(err)
			}
			_ = near.Close()
			<-served
		}
	})
	if got := result.AllocedBytesPerOp(); got > 256<<10 {
		t.Errorf("%d bytes are allocated for a frame of which 3 bytes have come", got)
	}
}

func TestWaitsDoNotTakeTheRoomOfOtherCalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const waits = 3000
		s := standard(ttrpc.NewServer(ttrpc.ServerOptions{
			MaxInFlight: 2, MaxTotal: 2, MaxWaits: waits,
			Waits: func(_, method string) bool { return method == "Block" },
		}))
		c := connect(t, s)
		var blocked sync.WaitGroup
		for range waits {
			blocked.Go(func() { _, _ = call(t.Context(), c, "Block", "") })
		}
		synctest.Wait()
		if _, err := call(t.Context(), c, "Echo", ""); err != nil {
			t.Errorf("beside %d waits: %v", waits, err)
		}
		if _, err := call(t.Context(), c, "Block", ""); ttrpc.CodeOf(err) != ttrpc.ResourceExhausted {
			t.Errorf("one wait too many: %v", err)
		}
		blocked.Go(func() { _, _ = call(t.Context(), c, "Block", strings.Repeat("x", 2<<10)) })
		synctest.Wait()
		blocked.Go(func() { _, _ = call(t.Context(), c, "Block", strings.Repeat("x", 2<<10)) })
		synctest.Wait()
		if _, err := call(t.Context(), c, "Echo", ""); ttrpc.CodeOf(err) != ttrpc.ResourceExhausted {
			t.Errorf("large waits take no room: %v", err)
		}
		_ = c.Close()
		blocked.Wait()
		synctest.Wait()
		c = connect(t, s)
		go func() { _, _ = call(t.Context(), c, "Block", "") }()
		synctest.Wait()
		if _, err := call(t.Context(), c, "Echo", ""); err != nil {
			t.Errorf("after they are over: %v", err)
		}
		_ = c.Close()
	})
}
