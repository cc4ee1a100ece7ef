package ownedfd

import (
	"errors"
	"os"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

func open(t *testing.T) int {
	t.Helper()
	n, err := unix.Open("/", unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func isOpen(n int) bool {
	_, err := unix.FcntlInt(uintptr(n), unix.F_GETFD, 0)
	return err == nil
}

func TestAClosedDescriptorIsNotUsed(t *testing.T) {
	n := open(t)
	d := New(n)
	if err := d.Use(func(got int) error {
		if got != n {
			t.Errorf("used %d, want %d", got, n)
		}
		return errors.New("mine")
	}); err == nil || err.Error() != "mine" {
		t.Errorf("Use: %v, want the error of the function", err)
	}
	if err := d.Close(); err != nil || isOpen(n) {
		t.Errorf("Close: %v, open %v", err, isOpen(n))
	}
	never := func(int) error { t.Error("used"); return nil }
	for name, d := range map[string]*FD{"closed": d, "zero": new(FD), "nil": nil} {
		if err := d.Use(never); !errors.Is(err, os.ErrClosed) {
			t.Errorf("Use of a %s one: %v", name, err)
		}
		if err := d.Close(); !errors.Is(err, os.ErrClosed) {
			t.Errorf("Close of a %s one: %v", name, err)
		}
		if d.Number() != -1 {
			t.Errorf("number of a %s one: %d", name, d.Number())
		}
	}
}

func TestClosingLeavesUsesTheirNumber(t *testing.T) {
	d := New(open(t))
	err := d.Use(func(n int) error {
		if err := d.Close(); err != nil {
			t.Errorf("Close within a use: %v", err)
		}
		if !isOpen(n) {
			t.Error("the number is gone while it is used")
		}
		if err := d.Use(func(int) error { return nil }); !errors.Is(err, os.ErrClosed) {
			t.Errorf("a use after Close: %v", err)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// TestTheNumberIsNobodyElsesMeanwhile closes descriptors beside their uses while
// others take the numbers that become free.
func TestTheNumberIsNobodyElsesMeanwhile(t *testing.T) {
	dir := t.TempDir()
	var want unix.Stat_t
	if err := unix.Stat(dir, &want); err != nil {
		t.Fatal(err)
	}
	for range 500 {
		n, err := unix.Open(dir, unix.O_PATH|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		d := New(n)
		var all sync.WaitGroup
		for range 4 {
			all.Go(func() {
				for {
					err := d.Use(func(n int) error {
						var st unix.Stat_t
						if err := unix.Fstat(n, &st); err != nil || st.Ino != want.Ino || st.Dev != want.Dev {
							t.Errorf("the number is another one's: %v", err)
						}
						return nil
					})
					if err != nil {
						return
					}
				}
			})
		}
		all.Go(func() {
			_ = d.Close()
			other := New(open(t)) // takes the number if it is free
			defer other.Close()
		})
		all.Wait()
	}
}
