package oom

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"kata/test/pace"
)

var errGone = errors.New("the client is gone")

// taker takes an event in the background; its result is in the channel.
func taker(q *queue, ctx context.Context) <-chan *Event {
	got := make(chan *Event, 1)
	go func() {
		e, _ := q.next(ctx)
		got <- e
	}()
	return got
}

// now returns the event that is there already; it fails the test if there is none.
func now(t *testing.T, q *queue) *Event {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), pace.Of(time.Second))
	defer cancel()
	e, err := q.next(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// empty fails the test if there is an event.
func empty(t *testing.T, q *queue) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if e, err := q.next(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("there is an event: %v, %v", e, err)
	}
}

func TestEachKillIsOneEventInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := new(queue)
		a, b := &account{id: "a"}, &account{id: "b"}
		q.post(a, 2)
		q.post(b, 1)
		q.post(a, 1)
		var got string
		for range 4 {
			e := now(t, q)
			got += e.ContainerID()
			e.Done(nil)
		}
		if got != "aaab" {
			t.Errorf("events of %q", got)
		}
		empty(t, q)
	})
}

func TestSeveralWaitersGetOneEventEach(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := new(queue)
		first := taker(q, t.Context())
		synctest.Wait()
		second := taker(q, t.Context())
		synctest.Wait()
		a := &account{id: "a"}
		q.post(a, 1)
		synctest.Wait()
		select {
		case e := <-second: // the later one: see the package comment
			e.Done(nil)
		case <-first:
			t.Error("the first waiter got it")
		}
		q.post(a, 1)
		(<-first).Done(nil)
		empty(t, q)
	})
}

func TestAWaiterThatGoesAwayTakesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := new(queue)
		a := &account{id: "a"}
		ctx, cancel := context.WithCancel(t.Context())
		gone := taker(q, ctx)
		synctest.Wait()
		cancel()
		if e := <-gone; e != nil {
			t.Error("it got an event")
		}
		q.post(a, 1)
		now(t, q).Done(nil)

		// Both at once: the event is the waiter's when its context ends.
		ctx, cancel = context.WithCancel(t.Context())
		gone = taker(q, ctx)
		synctest.Wait()
		cancel()
		q.post(a, 1)
		if e := <-gone; e != nil {
			t.Error("it got an event after its end")
		}
		now(t, q).Done(nil)
		empty(t, q)
	})
}

func TestNobodyWaitsAfterTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := &queue{ended: make(chan struct{})}
		failed := make(chan error)
		go func() {
			_, err := q.next(t.Context())
			failed <- err
		}()
		synctest.Wait()
		close(q.ended)
		if err := <-failed; err != ErrClosed {
			t.Error(err)
		}
		q.post(&account{id: "b"}, 1)
		now(t, q).Done(nil)
		if _, err := q.next(t.Context()); err != ErrClosed {
			t.Error(err)
		}
	})
}

func TestAnEventThatIsNotDeliveredGoesToTheNext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := new(queue)
		a, b := &account{id: "a"}, &account{id: "b"}
		q.post(a, 1)
		lost := now(t, q)
		waiting := taker(q, t.Context())
		synctest.Wait()
		lost.Done(errGone)
		if e := <-waiting; e.ContainerID() != "a" {
			t.Errorf("event of %s", e.ContainerID())
		} else {
			e.Done(errGone)
		}
		q.post(b, 1)
		for _, want := range []string{"a", "b"} {
			e := now(t, q)
			if e.ContainerID() != want {
				t.Errorf("event of %s, want %s", e.ContainerID(), want)
			}
			e.Done(nil)
		}
		empty(t, q)
	})
}

// TestAnExitWaitsForDelivery counts on the fake clock of synctest.
func TestAnExitWaitsForDelivery(t *testing.T) {
	settled := func(q *queue, a *account) time.Duration {
		start := time.Now()
		q.awaitDelivered(a)
		return time.Since(start)
	}
	for name, tt := range map[string]struct {
		client func(t *testing.T, q *queue) // runs in the background
		want   time.Duration
	}{
		"not if nobody ever asks": {func(*testing.T, *queue) {}, 0},
		"for a client that takes one after the other": {func(t *testing.T, q *queue) {
			for range 3 {
				e, err := q.next(t.Context())
				if err != nil {
					t.Error(err)
					return
				}
				time.Sleep(400 * time.Millisecond)
				e.Done(nil)
			}
		}, 1200 * time.Millisecond},
		"three seconds for a client that took one and asks no more": {func(t *testing.T, q *queue) {
			e, _ := q.next(t.Context())
			e.Done(nil)
		}, patience},
		"three seconds for a client that does not read its answer": {func(t *testing.T, q *queue) { _, _ = q.next(t.Context()) }, patience},
		"ten seconds for a slow client": {func(t *testing.T, q *queue) {
			for range 3 {
				e, _ := q.next(t.Context())
				for range 3 {
					time.Sleep(2 * time.Second)
					e.Done(errGone)
					e, _ = q.next(t.Context())
				}
				e.Done(nil)
			}
		}, maxDelay},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				q, a := new(queue), &account{id: "a"}
				ended := make(chan struct{})
				go func() {
					defer close(ended)
					tt.client(t, q)
				}()
				synctest.Wait()
				q.post(a, 3)
				if got := settled(q, a); got != tt.want {
					t.Errorf("the exit waited for %v, want %v", got, tt.want)
				}
				<-ended
			})
		})
	}
}

func TestAnExitDoesNotWaitForLaterKills(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q, a := new(queue), &account{id: "a"}
		client := taker(q, t.Context())
		synctest.Wait()
		q.post(a, 1)
		exited := make(chan struct{})
		go func() {
			defer close(exited)
			q.awaitDelivered(a)
		}()
		synctest.Wait()
		q.post(a, 7)
		(<-client).Done(nil)
		synctest.Wait()
		select {
		case <-exited:
		default:
			t.Error("it still waits")
		}
	})
}

func TestWhatWaitsIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := new(queue)
		alive := &account{id: "alive"}
		q.post(alive, 1)
		for i := range 3 * maxPending {
			a := &account{id: fmt.Sprint(i), closed: true}
			q.post(a, 5)
		}
		q.post(alive, 1)
		if len(q.pending) != maxPending {
			t.Errorf("%d containers wait", len(q.pending))
		}
		for range 2 {
			e := now(t, q)
			if e.ContainerID() != "alive" {
				t.Fatalf("event of %s", e.ContainerID())
			}
			e.Done(nil)
		}
		if e := now(t, q); e.ContainerID() != fmt.Sprint(3*maxPending-(maxPending-1)) {
			t.Errorf("the oldest that is left is %s", e.ContainerID())
		}
	})
}
