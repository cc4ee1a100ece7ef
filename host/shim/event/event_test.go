package event

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/containerd/api/events"
	"github.com/containerd/containerd/api/types"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// daemon is a containerd that takes events, or fails to for a while.
type daemon struct {
	mu     sync.Mutex
	fail   func(attempt int, e *types.Envelope) error
	tries  int
	times  []time.Time
	taken  []string
	hang   bool
	closed bool
}

func (d *daemon) Forward(ctx context.Context, e *types.Envelope) error {
	d.mu.Lock()
	d.tries++
	d.times = append(d.times, time.Now())
	hang, fail, n := d.hang, d.fail, d.tries
	d.mu.Unlock()
	if hang {
		<-ctx.Done()
		return ctx.Err()
	}
	if fail != nil {
		if err := fail(n, e); err != nil {
			return err
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.taken = append(d.taken, id(e))
	return nil
}

func (d *daemon) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.closed = true
	return nil
}

func id(e *types.Envelope) string {
	start := new(events.TaskStart)
	if err := proto.Unmarshal(e.Event.Value, start); err != nil {
		return err.Error()
	}
	return start.ContainerID
}

func (d *daemon) got() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.taken)
}

func publish(p *Publisher, from, to int) (want []string) {
	for i := from; i < to; i++ {
		p.Publish("/tasks/start", &events.TaskStart{ContainerID: fmt.Sprint(i)})
		want = append(want, fmt.Sprint(i))
	}
	return want
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

func TestEventsArriveInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := new(daemon)
		p := New("ns", d, quiet())
		want := publish(p, 0, 100)
		if err := p.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := d.got(); !slices.Equal(got, want) || !d.closed {
			t.Errorf("taken %v, closed %t", got, d.closed)
		}
	})
}

func TestRetriesKeepTheOrderAndBackOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &daemon{fail: func(n int, _ *types.Envelope) error {
			if n <= 9 {
				return errors.New("connection refused")
			}
			return nil
		}}
		p := New("ns", d, quiet())
		want := publish(p, 0, 3)
		time.Sleep(time.Minute)
		synctest.Wait()
		if got := d.got(); !slices.Equal(got, want) {
			t.Errorf("taken %v", got)
		}
		var pauses []string
		for i := range 9 {
			pauses = append(pauses, d.times[i+1].Sub(d.times[i]).String())
		}
		if got, want := strings.Join(pauses, " "), "100ms 200ms 400ms 800ms 1.6s 3.2s 5s 5s 5s"; got != want {
			t.Errorf("pauses %s, want %s", got, want)
		}
		if err := p.Close(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

func TestAnEventThatContainerdRefusesIsSkipped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &daemon{fail: func(_ int, e *types.Envelope) error {
			if id(e) == "1" {
				return status.Error(codes.InvalidArgument, "no such topic")
			}
			return nil
		}}
		p := New("ns", d, quiet())
		publish(p, 0, 3)
		if err := p.Close(t.Context()); err != nil {
			t.Error(err)
		}
		if got := d.got(); !slices.Equal(got, []string{"0", "2"}) {
			t.Errorf("taken %v", got)
		}
	})
}

func TestOverflowDropsTheOldestAndSaysSo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		away := true
		var mu sync.Mutex
		d := &daemon{fail: func(int, *types.Envelope) error {
			mu.Lock()
			defer mu.Unlock()
			if away {
				return errors.New("away")
			}
			return nil
		}}
		p := newPublisher("ns", d, slog.New(slog.NewTextHandler(&out, nil)), 4)
		publish(p, 0, 10)
		synctest.Wait()
		mu.Lock()
		away = false
		mu.Unlock()
		if err := p.Close(t.Context()); err != nil {
			t.Error(err)
		}
		if got := d.got(); !slices.Equal(got, []string{"6", "7", "8", "9"}) {
			t.Errorf("taken %v", got)
		}
		if log := out.String(); strings.Count(log, "dropping the oldest") != 1 || !strings.Contains(log, "events=6") {
			t.Errorf("log: %s", log)
		}
	})
}

func TestCloseIsBounded(t *testing.T) {
	for name, d := range map[string]*daemon{
		"containerd is away":         {fail: func(int, *types.Envelope) error { return errors.New("away") }},
		"containerd does not answer": {hang: true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := New("ns", d, quiet())
				publish(p, 0, 3)
				ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
				defer cancel()
				start := time.Now()
				err := p.Close(ctx)
				var unsent *UnsentError
				if !errors.As(err, &unsent) || unsent.Events != 3 {
					t.Errorf("Close = %v, want 3 unsent", err)
				}
				if took := time.Since(start); took > 2*time.Second {
					t.Errorf("Close took %s", took)
				}
				publish(p, 3, 4) // too late, and harmless
			})
		})
	}
}

func TestPublishDoesNotWaitForContainerd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &daemon{hang: true}
		p := New("ns", d, quiet())
		start := time.Now()
		publish(p, 0, 10)
		if took := time.Since(start); took != 0 {
			t.Errorf("Publish took %s", took)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_ = p.Close(ctx)
	})
}

func TestNewsOfOOMKillsPushNothingOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &daemon{hang: true}
		p := newPublisher("ns", d, quiet(), 10)
		oom := func(id string) { p.Publish("/tasks/oom", &events.TaskOOM{ContainerID: id}) }
		for range 100_000 {
			oom("liar")
		}
		if n := len(p.queue); n != maxWaitingOOM {
			t.Errorf("%d events of one container wait", n)
		}
		want := publish(p, 0, 10) // they need all the room
		oom("another")
		var got []string
		for _, e := range p.queue {
			got = append(got, id(e))
		}
		if !slices.Equal(got, want) {
			t.Errorf("%q wait, want %q", got, want)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_ = p.Close(ctx)
	})
}
