package sandbox

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

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
