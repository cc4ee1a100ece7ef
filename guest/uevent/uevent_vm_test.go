//go:build vmtest

package uevent

import (
	"context"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// announce makes the kernel announce a change of the null device.
func announce(t *testing.T) {
	t.Helper()
	if err := os.WriteFile("/sys/devices/virtual/mem/null/uevent", []byte("change"), 0); err != nil {
		t.Fatal(err)
	}
}

func open(t *testing.T) *Watch {
	t.Helper()
	w, err := Open()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = w.Close() })
	return w
}

// next returns the next event, within a minute.
func next(t *testing.T, w *Watch) Event {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	e, err := w.Next(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func TestAnnouncementsArrive(t *testing.T) {
	w := open(t)
	announce(t)
	e := next(t, w)
	if e.Action != "change" || e.Path != "/devices/virtual/mem/null" || e.Subsystem != "mem" || e.Var("DEVNAME") != "null" {
		t.Errorf("%+v", e)
	}
}

func TestLostAnnouncementsAreTold(t *testing.T) {
	w := open(t)
	for range 5000 { // more than a socket's buffer holds
		announce(t)
	}
	// What fitted comes with it; the order is the kernel's business.
	events := 0
	for !next(t, w).Missed {
		events++
	}
	if events >= 5000 {
		t.Errorf("%d events, and still some were missed", events)
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
	w := open(t)
	var port uint32
	if err := w.raw.Control(func(fd uintptr) {
		name, err := unix.Getsockname(int(fd))
		if err != nil {
			t.Fatal(err)
		}
		port = name.(*unix.SockaddrNetlink).Pid
	}); err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, unix.NETLINK_KOBJECT_UEVENT)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	forged := []byte("add@/devices/forged\x00SUBSYSTEM=block\x00")
	if err := unix.Sendto(fd, forged, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Pid: port}); err != nil {
		t.Fatal(err)
	}
	announce(t)
	if e := next(t, w); strings.Contains(e.Path, "forged") {
		t.Errorf("%+v", e)
	}
}
