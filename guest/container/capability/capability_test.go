package capability

import (
	"runtime"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

func TestParse(t *testing.T) {
	for name, want := range map[string]int{
		"CAP_CHOWN":              unix.CAP_CHOWN,
		"CAP_KILL":               unix.CAP_KILL,
		"CAP_NET_BIND_SERVICE":   unix.CAP_NET_BIND_SERVICE,
		"CAP_SYS_ADMIN":          unix.CAP_SYS_ADMIN,
		"CAP_AUDIT_WRITE":        unix.CAP_AUDIT_WRITE,
		"CAP_AUDIT_CONTROL":      unix.CAP_AUDIT_CONTROL,
		"CAP_SETFCAP":            unix.CAP_SETFCAP,
		"CAP_MAC_ADMIN":          unix.CAP_MAC_ADMIN,
		"CAP_BPF":                unix.CAP_BPF,
		"CAP_CHECKPOINT_RESTORE": unix.CAP_CHECKPOINT_RESTORE,
	} {
		if got, ok := Parse(name); !ok || got != want {
			t.Errorf("%s is %d, %v; want %d", name, got, ok, want)
		}
	}
	for _, name := range []string{"", "CAP_", "CHOWN", "cap_chown", "CAP_NOSUCH", "CAP_CHOWN "} {
		if got, ok := Parse(name); ok {
			t.Errorf("%q was taken for %d", name, got)
		}
	}
	if len(names) != unix.CAP_LAST_CAP+1 {
		t.Errorf("%d names, the kernel's headers have %d", len(names), unix.CAP_LAST_CAP+1)
	}
}

// onThread runs f on a thread that ends with it.
func onThread(t *testing.T, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		runtime.LockOSThread()
		defer close(done)
		f()
	}()
	<-done
}

func TestThreadGetsExactlyTheSets(t *testing.T) {
	onThread(t, func() {
		want := Sets{
			Bounding:  1<<unix.CAP_CHOWN | 1<<unix.CAP_KILL,
			Effective: 1 << unix.CAP_CHOWN, Inheritable: 1 << unix.CAP_KILL,
			Permitted: 1<<unix.CAP_CHOWN | 1<<unix.CAP_KILL, Ambient: 1 << unix.CAP_KILL,
		}
		if err := want.LimitBounding(); err != nil {
			t.Error(err)
			return
		}
		if err := want.Adopt(0); err != nil {
			t.Error(err)
			return
		}
		adopted, err := current()
		if err != nil || adopted.Effective != want.Effective || adopted.Permitted&^want.Permitted == 0 {
			t.Errorf("after Adopt: %+v, %v", adopted, err)
		}
		if err := want.Finish(); err != nil {
			t.Error(err)
			return
		}
		got, err := current()
		if err != nil {
			t.Error(err)
		}
		for number := range 64 {
			if v, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, uintptr(number), 0, 0, 0); err == nil && v == 1 {
				got.Bounding |= 1 << number
			}
			if v, err := unix.PrctlRetInt(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_IS_SET, uintptr(number), 0, 0); err == nil && v == 1 {
				got.Ambient |= 1 << number
			}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
	})
}

func TestNoCapabilities(t *testing.T) {
	onThread(t, func() {
		var none Sets
		for _, step := range []func() error{none.LimitBounding, func() error { return none.Adopt(0) }, none.Finish} {
			if err := step(); err != nil {
				t.Error(err)
			}
		}
		if got, err := current(); err != nil || got != none {
			t.Errorf("%+v, %v", got, err)
		}
	})
}
