package vhostuser

import (
	"bytes"
	"context"
	"log/slog"
	"sync"
	"testing"

	"kata/host/vhostuser/vhostusertest"
)

// echo is a device that writes back what it reads, on every queue.
type echo struct {
	queues []*Queue

	mu     sync.Mutex
	events []string
}

func (e *echo) Features() uint64   { return 0 }
func (e *echo) Queues() int        { return 2 }
func (e *echo) Config() []byte     { return []byte{1, 2, 3, 4, 5, 6, 7, 8} }
func (e *echo) Attach(qs []*Queue) { e.queues = qs }

func (e *echo) event(s string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.events = append(e.events, s)
}

func (e *echo) Started(_ int, how Start) {
	e.event([]string{"fresh", "resumed", "taken over"}[how])
}

func (e *echo) Stopped(int) { e.event("stopped") }

func (e *echo) Available(i int) error {
	return e.queues[i].Do(func(b *Batch) error {
		for {
			c, err := b.Next()
			if c == nil || err != nil {
				return err
			}
			p := make([]byte, min(c.Readable(), 1<<16))
			if _, err := c.Read(p); err != nil {
				return err
			}
			n, err := c.Write(p)
			if err != nil {
				return err
			}
			if err := b.Done(c, uint32(n)); err != nil {
				return err
			}
		}
	})
}

// serve runs Serve for dev and returns its VM and a function that closes the
// connection and returns Serve's error.
func serve(t testing.TB, dev Device) (*vhostusertest.VM, func() error) {
	t.Helper()
	front, back := vhostusertest.Pair(t)
	done := make(chan error, 1)
	go func() { done <- Serve(context.Background(), back, dev, slog.New(slog.DiscardHandler)) }()
	end := sync.OnceValue(func() error {
		front.Close()
		return <-done
	})
	t.Cleanup(func() { _ = end() })
	return vhostusertest.New(t, front), end
}

func TestEchoThroughARing(t *testing.T) {
	for name, features := range map[string]uint64{
		"with all features": ^uint64(0),
		"without any":       vhostusertest.FeatureVersion1,
		"without EVENT_IDX": ^uint64(vhostusertest.FeatureEventIdx),
	} {
		t.Run(name, func(t *testing.T) {
			vm, end := serve(t, &echo{})
			vm.Features &= features
			vm.Boot(2, 8)
			q := vm.Queue(1)
			for i := range 100 {
				msg := bytes.Repeat([]byte{byte(i)}, 10+i)
				head := q.Offer([][]byte{msg[:3], msg[3:]}, 256)
				q.Kick()
				b := q.Wait()
				if b.Head != head || int(b.Written) != len(msg) || !bytes.Equal(b.Room[:b.Written], msg) {
					t.Fatalf("round %d: got %+v", i, b)
				}
			}
			if err := end(); err != nil {
				t.Fatalf("Serve = %v, want nil after the VMM closed", err)
			}
		})
	}
}
