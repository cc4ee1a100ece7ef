//go:build vmtest

package uevent

import (
	"context"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"kata/test/pace"
)

// announce makes the kernel announce a change of the null device.
func announce(t *testing.T) {
	t.Helper()
	if err := os.WriteFile("/sys/devices/virtual/mem/null/uevent", []byte("change"), 0); err != nil {
		t.Fatal(err)
	}
}

// listen subscribes for as long as the test runs.
func listen(t *testing.T) *watch {
	t.Helper()
	w, err := open()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = w.file.Close() })
	return w
}

// port returns the address of a subscription.
func (w *watch) port(t *testing.T) (port uint32) {
	t.Helper()
	err := w.raw.Control(func(fd uintptr) {
		name, err := unix.Getsockname(int(fd))
		if err != nil {
			t.Error(err)
			return
		}
		port = name.(*unix.SockaddrNetlink).Pid
	})
	if err != nil {
		t.Fatal(err)
	}
	return port
}

// told reports whether something of the kernel's is there to be read.
func (w *watch) told(t *testing.T) (told bool) {
	t.Helper()
	err := w.raw.Control(func(fd uintptr) {
		var err error
		if told, err = receive(int(fd)); err != nil {
			t.Error(err)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	return told
}

func TestAnnouncementsArrive(t *testing.T) {
	w := listen(t)
	announce(t)
	ctx, cancel := context.WithTimeout(t.Context(), pace.Of(time.Minute))
	defer cancel()
	if err := w.next(ctx); err != nil {
		t.Fatal(err)
	}
	if w.told(t) {
		t.Error("it was announced twice")
	}
}

// TestLostAnnouncementsLeadToAnotherLook loses the one announcement that counts.
func TestLostAnnouncementsLeadToAnotherLook(t *testing.T) {
	looks := 0
	there := false
	err := Await(t.Context(), "a thing", time.Minute, func() (bool, error) {
		if looks++; looks == 2 { // it has subscribed, and reads nothing while it looks
			for range 5000 {
				announce(t)
			}
			defer func() { there = true }()
		}
		return there, nil
	})
	if err != nil || looks < 3 {
		t.Errorf("%v after %d looks", err, looks)
	}
}

func TestWhatContainersSendIsIgnored(t *testing.T) {
	w := listen(t)
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, unix.NETLINK_KOBJECT_UEVENT)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	forged := []byte("add@/devices/forged\x00SUBSYSTEM=block\x00")
	if err := unix.Sendto(fd, forged, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Pid: w.port(t)}); err != nil {
		t.Fatal(err)
	}
	if w.told(t) {
		t.Error("a forged announcement was taken for one of the kernel's")
	}
	announce(t)
	if !w.told(t) {
		t.Error("a true announcement was not noticed")
	}
}
