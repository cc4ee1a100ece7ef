package uevent

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"
	"time"
)

func TestParse(t *testing.T) {
	message := "add@/devices/pci0000:00/0000:00:05.0/virtio2/block/vda\x00ACTION=add\x00SUBSYSTEM=block\x00DEVNAME=vda\x00EMPTY=\x00WITH=a=b\x00"
	e, ok := parse([]byte(message))
	if !ok || e.Action != "add" || e.Path != "/devices/pci0000:00/0000:00:05.0/virtio2/block/vda" || e.Subsystem != "block" || e.Missed {
		t.Errorf("parse: %+v, %v", e, ok)
	}
	for key, want := range map[string]string{"DEVNAME": "vda", "EMPTY": "", "WITH": "a=b", "DEV": ""} {
		if got := e.Var(key); got != want {
			t.Errorf("%s is %q, want %q", key, got, want)
		}
	}
}

func TestParseRefusesWhatIsNoAnnouncement(t *testing.T) {
	for _, message := range []string{"", "\x00", "add", "@/devices", "add@devices", "libudev\x00\xfe\xed\xca\xfe"} {
		if e, ok := parse([]byte(message)); ok {
			t.Errorf("%q is %+v", message, e)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte("add@/devices/x\x00SUBSYSTEM=block\x00"))
	f.Add([]byte("remove@/\x00=\x00\x00"))
	f.Fuzz(func(t *testing.T, message []byte) {
		e, ok := parse(message)
		if ok && !bytes.HasPrefix(message, []byte(e.Action+"@"+e.Path)) {
			t.Errorf("%q is %+v", message, e)
		}
	})
}

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

func TestNextEndsWithCloseAndWithContext(t *testing.T) {
	w, err := Open()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if e, err := w.Next(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("Next: %+v, %v", e, err)
	}
	if err := w.Close(); err != nil {
		t.Error(err)
	}
	if e, err := w.Next(t.Context()); err == nil {
		t.Errorf("Next after Close: %+v", e)
	}
}
