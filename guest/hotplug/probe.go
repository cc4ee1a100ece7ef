package hotplug

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ProbeMemory tells the kernel of memory at physical addresses, of one block of
// memory each, for machines that have no other way to announce it. The addresses
// are looked at first, and if one of them is wrong nothing is done: one that is
// not the beginning of a block or is used for something else is ErrInvalid, as is
// one where there is no memory, because a kernel that believes in it crashes.
// Memory that is known is ErrExists. A kernel that does not take addresses is
// ErrUnable.
func (m *Machine) ProbeMemory(addresses []uint64) error {
	probe := m.system + "/memory/probe"
	if err := unix.Access(probe, unix.W_OK); err != nil {
		return fail(ErrUnable, "the kernel takes no addresses of memory: %s: %v", probe, err)
	}
	text, err := read(m.system + "/memory/block_size_bytes")
	if err != nil {
		return fmt.Errorf("announce memory: %w", err)
	}
	size, err := strconv.ParseUint(text, 16, 64)
	if err != nil || size == 0 {
		return fmt.Errorf("announce memory: the kernel has blocks of %q bytes", text)
	}
	for i, address := range addresses {
		if slices.Contains(addresses[:i], address) {
			return fail(ErrInvalid, "address %#x is there twice", address)
		}
		if err := m.checkBlock(address, size); err != nil {
			return err
		}
	}
	for i, address := range addresses {
		if err := write(probe, "0x"+strconv.FormatUint(address, 16)); err != nil {
			return fmt.Errorf("announce memory at %#x, after %d of %d: %w", address, i, len(addresses), err)
		}
	}
	return nil
}

// checkBlock finds out whether there is memory at address that the kernel does
// not know.
func (m *Machine) checkBlock(address, size uint64) error {
	if address%size != 0 {
		return fail(ErrInvalid, "address %#x is not a multiple of %#x, the size of a block of memory", address, size)
	}
	if _, err := os.Stat(m.system + "/memory/memory" + strconv.FormatUint(address/size, 10)); err == nil {
		return fail(ErrExists, "memory at %#x is in use already", address)
	}
	table, err := os.ReadFile("/proc/iomem")
	if err != nil {
		return err
	}
	if user := overlapping(string(table), address, size); user != "" {
		return fail(ErrInvalid, "address %#x is taken by %q", address, user)
	}
	switch backed, err := isMemory(address, size); {
	case errors.Is(err, unix.EINVAL): // more than the CPU can address
		return fail(ErrInvalid, "address %#x is more than the machine can address", address)
	case err != nil:
		return fail(ErrUnable, "look for memory at %#x: %v", address, err)
	case !backed:
		return fail(ErrInvalid, "there is no memory at address %#x", address)
	}
	return nil
}

// overlapping returns who uses a part of the addresses, "" if nobody does, by the
// lines of /proc/iomem: "  first-last : user", in hexadecimal. Only lines that
// are not indented count, the others are parts of those.
func overlapping(table string, address, size uint64) string {
	for line := range strings.Lines(table) {
		addresses, user, ok := strings.Cut(strings.TrimSuffix(line, "\n"), " : ")
		first, last, isRange := strings.Cut(addresses, "-")
		if !ok || !isRange {
			continue // indented ones fail to be numbers below
		}
		from, err := strconv.ParseUint(first, 16, 64)
		to, err2 := strconv.ParseUint(last, 16, 64)
		if err == nil && err2 == nil && from <= address+(size-1) && address <= to {
			return user
		}
	}
	return ""
}

// isMemory reports whether what is written to physical addresses, which nobody
// uses, stays there. It looks at one word in each megabyte and leaves it as it
// was. Where there is nothing, writes are lost.
func isMemory(address, size uint64) (bool, error) {
	fd, err := unix.Open("/dev/mem", unix.O_RDWR|unix.O_SYNC|unix.O_CLOEXEC, 0)
	if err != nil {
		return false, &os.PathError{Op: "open", Path: "/dev/mem", Err: err}
	}
	defer unix.Close(fd)
	if address > 1<<63-1 || size > 1<<40 {
		return false, unix.EINVAL
	}
	memory, err := unix.Mmap(fd, int64(address), int(size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return false, os.NewSyscallError("mmap", err)
	}
	defer func() { _ = unix.Munmap(memory) }()
	const step, word = 1 << 20, 8
	for offset := uint64(0); offset < size; offset += step {
		last := min(offset+step, size) - word
		if !keeps((*uint64)(unsafe.Pointer(&memory[last])), address+last) {
			return false, nil
		}
	}
	return true, nil
}

// keeps reports whether a word holds what is written to it.
func keeps(word *uint64, seed uint64) bool {
	before := atomic.LoadUint64(word)
	defer atomic.StoreUint64(word, before)
	for _, pattern := range [...]uint64{seed ^ 0x5aa5_c33c_0ff0_9669, ^seed} {
		atomic.StoreUint64(word, pattern)
		if atomic.LoadUint64(word) != pattern {
			return false
		}
	}
	return true
}
