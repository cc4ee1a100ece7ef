//go:build vmtest

package device

import (
	"errors"
	"fmt"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// control does something with a loop device by its number
// (include/uapi/linux/loop.h).
func control(t *testing.T, request uint, number int) {
	t.Helper()
	fd, err := unix.Open("/dev/loop-control", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := unix.IoctlSetInt(fd, request, number); err != nil && !errors.Is(err, unix.EEXIST) {
		t.Error(err) // not Fatal: this may run beside the test
	}
}

// TestDevicesAreFoundWheneverTheyCome races the coming of a device with the
// question for it: none may be missed, and each can be opened at once.
func TestDevicesAreFoundWheneverTheyCome(t *testing.T) {
	f := NewFinder(time.Minute)
	for i := range 100 {
		number := 100 + i
		node := fmt.Sprintf("/dev/loop%d", number)
		added := make(chan struct{})
		go func() {
			defer close(added)
			control(t, unix.LOOP_CTL_ADD, number)
		}()
		b, err := f.BlockNamed(t.Context(), node)
		<-added
		if err != nil || b.Path != node || b.Major != 7 || b.Minor != uint32(number) {
			t.Fatalf("%s: %+v, %v", node, b, err)
		}
		file, err := os.Open(node)
		if err != nil {
			t.Fatal(err)
		}
		_ = file.Close()
		control(t, unix.LOOP_CTL_REMOVE, number)
	}
}
