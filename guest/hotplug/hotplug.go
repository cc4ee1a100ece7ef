// Package hotplug takes into use what the host plugs into the running machine:
// CPUs, memory and swap. The kernel notices them by itself; what is left to do
// is to bring them online.
//
// CPUs come online in ascending order, whatever order they were plugged in, so
// that the machine looks the same each time. Waiting for those that have been
// plugged in but not noticed yet is by the kernel's announcements (package
// uevent). Containers whose CPUs are not limited use new ones at once, and so do
// those whose limit names them: with cgroup v2 the kernel sees to that before a
// CPU counts as online (cpu_up_down_serialize_trainwrecks), and no container's
// set of CPUs has to be written anew.
//
// The package does not plug anything, does not find devices (package device) and
// takes nothing out of use.
package hotplug

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Errors that callers tell apart, for errors.Is.
var (
	// ErrExists: it is in use already.
	ErrExists = errors.New("in use already")
	// ErrNotFound: it is not there.
	ErrNotFound = errors.New("not found")
	// ErrUnable: this machine cannot do it.
	ErrUnable = errors.New("not possible on this machine")
	// ErrInvalid: what is asked for makes no sense.
	ErrInvalid = errors.New("invalid")
)

// failure is an error of a kind, for errors.Is, whose text says all there is to
// say.
type failure struct {
	kind error
	text string
}

func (f *failure) Error() string        { return f.text }
func (f *failure) Is(target error) bool { return target == f.kind }

func fail(kind error, format string, args ...any) error {
	return &failure{kind, fmt.Sprintf(format, args...)}
}

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

// numbered returns the numbers of dir's entries that are name and a number, such
// as cpu12, in ascending order.
func numbered(dir, name string) ([]int, error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	entries, err := d.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	var numbers []int
	for _, entry := range entries {
		digits, ok := strings.CutPrefix(entry, name)
		if n, err := strconv.Atoi(digits); ok && err == nil && n >= 0 {
			numbers = append(numbers, n)
		}
	}
	slices.Sort(numbers)
	return numbers, nil
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
	_, err = file.WriteString(value)
	return errors.Join(err, file.Close())
}

// count returns how many numbers are in a list such as "0-3,8" (the kernel's
// documentation has it in admin-guide/cputopology.rst).
func count(list string) (int, error) {
	n := 0
	if list == "" {
		return 0, nil
	}
	for part := range strings.SplitSeq(list, ",") {
		first, last, isRange := strings.Cut(part, "-")
		if !isRange {
			last = first
		}
		from, err := strconv.Atoi(first)
		to, err2 := strconv.Atoi(last)
		if err != nil || err2 != nil || from > to {
			return 0, fmt.Errorf("list %q is not one of numbers", list)
		}
		n += to - from + 1
	}
	return n, nil
}

// OnlineMemory brings all memory online that has been plugged in and is not.
// What cannot be brought online is in the error, and does not keep the rest from
// it.
func (m *Machine) OnlineMemory(ctx context.Context) error {
	dir := m.system + "/memory"
	blocks, err := numbered(dir, "memory")
	if errors.Is(err, os.ErrNotExist) {
		return nil // a kernel whose memory does not grow
	}
	if err != nil {
		return fmt.Errorf("list memory: %w", err)
	}
	var errs []error
	for _, n := range blocks {
		if ctx.Err() != nil {
			return errors.Join(append(errs, context.Cause(ctx))...)
		}
		name := dir + "/memory" + strconv.Itoa(n) + "/state"
		state, err := read(name)
		if err == nil && state == "offline" {
			err = write(name, "online")
		}
		if err != nil && !errors.Is(err, os.ErrNotExist) && !errors.Is(err, unix.ENODEV) { // it has just been unplugged
			errs = append(errs, fmt.Errorf("bring memory block %d online: %w", n, err))
		}
	}
	return errors.Join(errs...)
}
