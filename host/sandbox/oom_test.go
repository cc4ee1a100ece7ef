package sandbox

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// TestALyingAgentTellsOfNoContainerThatThereIsNot, of those that there are only so
// often, and the shim asks for no more.
func TestALyingAgentTellsOfNoContainerThatThereIsNot(t *testing.T) {
	f := newFixture(t)
	s := f.boot()
	f.create(s, "c1", "sleep")
	lies, stop := context.WithCancel(t.Context())
	taken := make(chan int, 1)
	go func() {
		n := 0
		for ; lies.Err() == nil; n++ {
			id := strings.Repeat("x", 200<<10)
			if n%2 == 1 {
				id = "c1"
			}
			f.parts.Agent.KilledForMemory(lies, id)
		}
		taken <- n
	}()
	told := 0
	for over := time.After(time.Second); over != nil; {
		select {
		case id := <-f.told:
			if id != "c1" {
				t.Fatalf("told of %.20s", id)
			}
			told++
		case <-over:
			over = nil
		}
	}
	stop()
	n := <-taken
	// A second's worth, and as much again for a slow machine.
	if most := oomBurst + 2*int(time.Second/oomRate); told == 0 || n > 2*most {
		t.Errorf("%d answers were taken and %d kills told, at most %d may be", n, told, most)
	}
	s.oom.mu.Lock()
	defer s.oom.mu.Unlock()
	if len(s.oom.told) != 1 {
		t.Errorf("%d ids are remembered", len(s.oom.told))
	}
}

func TestAThrottleAllowsABurstAndThenItsRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begun := time.Now()
		p := newThrottle(5, time.Second)
		for range 15 {
			if !p.wait(t.Context()) {
				t.Fatal("it gave up")
			}
		}
		if took := time.Since(begun); took != 10*time.Second {
			t.Errorf("15 took %s", took)
		}
		time.Sleep(time.Minute)
		begun = time.Now()
		for range 5 {
			p.wait(t.Context())
		}
		if took := time.Since(begun); took != 0 {
			t.Errorf("a new burst took %s", took)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if p.wait(ctx) {
			t.Error("it waits without a reason")
		}
	})
}

func TestAnExitWaitsForTheEventsBeforeIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o, lost := newOOMEvents(), make(chan struct{})
		if !o.await(t.Context(), lost, "c", 0) {
			t.Error("it waits for nothing")
		}
		told := make(chan bool)
		go func() { told <- o.await(t.Context(), lost, "c", 2) }()
		o.add("c")
		o.add("other")
		synctest.Wait()
		select {
		case <-told:
			t.Error("one of two is enough")
		default:
		}
		o.add("c")
		if !<-told {
			t.Error("two of two are not enough")
		}
		o.forget("c")

		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if o.await(ctx, lost, "c", 1) {
			t.Error("the count of a container that is gone is not")
		}
		go func() { told <- o.await(t.Context(), lost, "c", 1) }()
		close(lost)
		if <-told {
			t.Error("it came from an agent that is gone")
		}
	})
}
