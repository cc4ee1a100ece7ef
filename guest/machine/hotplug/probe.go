package hotplug

import (
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
	dir := m.system + "/memory"
	if _, err := os.Stat(dir + "/probe"); err != nil {
		return fail(ErrUnable, "the kernel takes no addresses of memory: "+err.Error())
	}
	text, err := read(dir + "/block_size_bytes")
	if err != nil {
		return err
	}
	size, err := strconv.ParseUint(text, 16, 40)
	if err != nil || size == 0 {
		return fail(ErrUnable, "the kernel has memory in blocks of "+text+" bytes")
	}
	table, err := os.ReadFile("/proc/iomem")
	if err != nil {
		return err
	}
	for i, address := range addresses {
		reason, kind := m.checkBlock(string(table), address, size)
		if slices.Contains(addresses[:i], address) {
			reason, kind = "is there twice", ErrInvalid
		}
		if kind != nil {
			return fail(kind, "address "+hex(address)+" "+reason)
		}
	}
	for _, address := range addresses {
		if err := write(dir+"/probe", hex(address)); err != nil {
			return fail(ErrUnable, "announce memory at "+hex(address)+": "+err.Error())
		}
	}
	return nil
}

func hex(n uint64) string { return "0x" + strconv.FormatUint(n, 16) }

// checkBlock finds out whether there is memory at address that the kernel, whose
// /proc/iomem is table, does not know; if not it returns what is wrong with it.
func (m *Machine) checkBlock(table string, address, size uint64) (reason string, kind error) {
	if address%size != 0 {
		return "is not a multiple of " + hex(size) + ", the size of a block of memory", ErrInvalid
	}
	if _, err := os.Stat(m.system + "/memory/memory" + strconv.FormatUint(address/size, 10)); err == nil {
		return "is of memory in use already", ErrExists
	}
	if user := overlapping(table, address, size); user != "" {
		return "is taken by " + user, ErrInvalid
	}
	switch backed, err := isMemory(address, size); {
	case err == unix.EINVAL:
		return "is more than the machine can address", ErrInvalid
	case err != nil:
		return "cannot be looked at: " + err.Error(), ErrUnable
	case !backed:
		return "is of no memory", ErrInvalid
	}
	return "", nil
}

// overlapping returns who uses a part of the addresses, "" if nobody does, by the
// lines of /proc/iomem: "first-last : user", in hexadecimal. Those that are
// indented are parts of others.
func overlapping(table string, address, size uint64) string {
	for table != "" {
		var line string
		line, table, _ = strings.Cut(table, "\n")
		addresses, user, _ := strings.Cut(line, " : ")
		first, last, _ := strings.Cut(addresses, "-")
		from, err := strconv.ParseUint(first, 16, 64)
		if err != nil {
			continue
		}
		to, err := strconv.ParseUint(last, 16, 64)
		if err == nil && from <= address+(size-1) && address <= to {
			return user
		}
	}
	return ""
}

// isMemory reports whether what is written to physical addresses, which nobody
// uses, stays there. It looks at one word in each megabyte and leaves it as it
// was. Where there is nothing, writes are lost. EINVAL says that there cannot be
// such addresses.
func isMemory(address, size uint64) (bool, error) {
	if address>>62 != 0 {
		return false, unix.EINVAL
	}
	fd, err := unix.Open("/dev/mem", unix.O_RDWR|unix.O_SYNC|unix.O_CLOEXEC, 0)
	if err != nil {
		return false, err
	}
	defer unix.Close(fd)
	memory, err := unix.Mmap(fd, int64(address), int(size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return false, err
	}
	defer func() { _ = unix.Munmap(memory) }()
	const step, word = 1 << 20, 8
	for last := min(step, size) - word; last < size; last += step {
		if !keeps((*uint64)(unsafe.Pointer(&memory[last])), address+last) {
			return false, nil
		}
	}
	return true, nil
}

// keeps reports whether a word holds what is written to it.
func keeps(word *uint64, seed uint64) bool {
	before := atomic.LoadUint64(word)
	atomic.StoreUint64(word, ^seed)
	inverse := atomic.LoadUint64(word)
	atomic.StoreUint64(word, seed)
	plain := atomic.LoadUint64(word)
	atomic.StoreUint64(word, before)
	return inverse == ^seed && plain == seed
}
