package uevent

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"
)

func TestAwaitLooksBeforeItWaits(t *testing.T) {
	looks := 0
	err := Await(t.Context(), "a thing", 0, func() (bool, error) { looks++; return true, nil })
	if err != nil || looks != 1 {
		t.Errorf("%v after %d looks", err, looks)
	}
}

func TestAwaitWithoutTimeDoesNotWait(t *testing.T) {
	err := Await(t.Context(), "block device of PCI path 02/01", 0, func() (bool, error) { return false, nil })
	var timeout *TimeoutError
	if !errors.As(err, &timeout) || !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "block device of PCI path 02/01") {
		t.Errorf("Await: %v", err)
	}
}

func TestAwaitSaysWhatItWaitedForAndHowLong(t *testing.T) {
	err := Await(t.Context(), "block device of PCI path 02/01", 20*time.Millisecond, func() (bool, error) { return false, nil })
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Await: %v", err)
	}
	for _, want := range []string{"block device of PCI path 02/01", "20ms", "agent.hotplug_timeout"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Await: %v, want %q in it", err, want)
		}
	}
}

func TestAwaitEndsWithItsContext(t *testing.T) {
	gone := errors.New("the client has gone")
	ctx, cancel := context.WithCancelCause(t.Context())
	looks := 0
	err := Await(ctx, "a thing", time.Hour, func() (bool, error) {
		if looks++; looks == 2 { // it has subscribed
			cancel(gone)
		}
		return false, nil
	})
	if !errors.Is(err, gone) || !strings.Contains(err.Error(), "a thing") {
		t.Errorf("Await: %v", err)
	}
}

func TestAwaitEndsWithAnErrorOfLook(t *testing.T) {
	broken := errors.New("broken")
	if err := Await(t.Context(), "a thing", time.Hour, func() (bool, error) { return false, broken }); !errors.Is(err, broken) {
		t.Errorf("Await: %v", err)
	}
}

func TestNextEndsWithItsContext(t *testing.T) {
	w, err := open()
	if err != nil {
		t.Fatal(err)
	}
	defer w.file.Close()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := w.next(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("next: %v", err)
	}
}
