// Package hotplug takes into use what the host plugs into the running machine:
// CPUs, memory and swap. The kernel notices them by itself; what is left to do
// is to bring them online.
//
// CPUs come online in ascending order, whatever order they were plugged in, so
// that the machine looks the same each time. Waiting for those that have been
// plugged in but not noticed yet is by the kernel's announcements (package
// uevent). Containers whose CPUs are not limited use new ones at once: with cgroup v2
// the kernel sees to that before a CPU counts as online
// (cpu_up_down_serialize_trainwrecks). Sets of CPUs that containers ask for by the
// host's numbers are the caller's to write anew.
//
// The package does not plug anything, does not find devices (package device) and
// takes nothing out of use.
package hotplug

import (
	"context"
	"errors"
	"os"
	"sort"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"kata/guest/fault"
)

// Errors that callers tell apart, for errors.Is.
var (
	// ErrExists: it is in use already.
	ErrExists = fault.New(fault.Exists, "in use already")
	// ErrNotFound: it is not there.
	ErrNotFound error = fault.NotFound
	// ErrUnable: this machine cannot do it.
	ErrUnable = fault.New(fault.State, "not possible on this machine")
	// ErrInvalid: what is asked for makes no sense.
	ErrInvalid error = fault.Invalid
)

// failure is an error of a kind, for errors.Is, whose text says all there is to
// say.
type failure struct {
	kind error
	text string
}

func (f *failure) Error() string { return f.text }
func (f *failure) Unwrap() error { return f.kind }

func fail(kind error, text string) error { return &failure{kind, text} }

// Machine is the machine whose resources grow. Methods may be called
// concurrently. The zero value is not usable: see New.
type Machine struct {
	system  string // sysfs of CPUs and memory
	timeout time.Duration

	turn chan struct{} // capacity 1: whoever brings CPUs online holds it
}

// New returns the machine the process runs on. CPUs that were plugged in get
// timeout to appear.
func New(timeout time.Duration) *Machine {
	return &Machine{system: "/sys/devices/system", timeout: timeout, turn: make(chan struct{}, 1)}
}

// online brings what is off online: the entries of dir that are called kind and a
// number, in ascending order, at most n of them. It returns how many it has, and
// the first error; one that fails does not keep the others from it.
func (m *Machine) online(ctx context.Context, kind, file, off, on string, n int) (came int, err error) {
	dir := m.system + "/" + kind
	numbers, err := numbered(dir, kind)
	for _, number := range numbers {
		if came == n {
			break
		}
		if ctx.Err() != nil {
			return came, context.Cause(ctx)
		}
		name := dir + "/" + kind + strconv.Itoa(number) + "/" + file
		state, failure := read(name)
		if state == off {
			if failure = write(name, on); failure == nil {
				came++
			}
		}
		// Without such a file it cannot go off, as the first CPU; or it has just
		// been unplugged.
		if err == nil && !errors.Is(failure, os.ErrNotExist) && !errors.Is(failure, unix.ENODEV) {
			err = failure
		}
	}
	return came, err
}

// numbered returns the numbers of dir's entries that are name and a number, such
// as cpu12, in ascending order.
func numbered(dir, name string) ([]int, error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	entries, err := d.Readdirnames(-1)
	var numbers []int
	for _, entry := range entries {
		digits, ok := strings.CutPrefix(entry, name)
		if n, err := strconv.Atoi(digits); ok && err == nil && n >= 0 {
			numbers = append(numbers, n)
		}
	}
	sort.Stable(sort.IntSlice(numbers))
	return numbers, err
}

// read returns what a file of the kernel says, without the line's end.
func read(path string) (string, error) {
	text, err := os.ReadFile(path)
	return strings.TrimSpace(string(text)), err
}

// write writes value to a file of the kernel, which must exist.
func write(path, value string) error {
	file, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer file.Close()
	_, err = file.WriteString(value)
	return err
}

// OnlineMemory brings all memory online that has been plugged in and is not.
// What cannot be brought online is in the error, and does not keep the rest from
// it.
func (m *Machine) OnlineMemory(ctx context.Context) error {
	_, err := m.online(ctx, "memory", "state", "offline", "online", -1)
	if errors.Is(err, os.ErrNotExist) {
		return nil // a kernel whose memory does not grow
	}
	return err
}
