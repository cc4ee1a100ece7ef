package netdev

import (
	"net"
	"os"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"kata/test/leaktest"
)

func TestUpSetsTheLoopbackDeviceUp(t *testing.T) {
	// A network namespace of this thread's own; the thread ends with the test.
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Fatal(err)
	}
	if up(t) {
		t.Fatal("lo is up in a new namespace")
	}
	for range 2 {
		if err := Up("lo"); err != nil {
			t.Fatal(err)
		}
		if !up(t) {
			t.Error("lo is not up")
		}
	}
}

func up(t *testing.T) bool {
	t.Helper()
	lo, err := net.InterfaceByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	return lo.Flags&net.FlagUp != 0
}

func TestErrorsNameTheDevice(t *testing.T) {
	for _, name := range []string{"nosuchdevice", strings.Repeat("x", 20)} {
		if err := Up(name); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("Up(%q) = %v", name, err)
		}
	}
}

func TestMain(m *testing.M) { os.Exit(leaktest.Run(m, "kata/guest/network/netdev.")) }
