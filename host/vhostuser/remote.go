package vhostuser

import (
	"encoding/binary"
	"fmt"
	"slices"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

// remote is guest memory in the address space of the VMM. It is immutable but for
// what it is still allowed to reach.
type remote struct {
	pid  int
	list []Region // sorted by guest address, without overlap

	mu      sync.RWMutex // held for writing by retire, for reading by accesses
	allowed []Region     // list, or less once the table is retired
}

func newRemote(pid int, list []Region) *remote { return &remote{pid: pid, list: list, allowed: list} }

// with implements table. The descriptor, which backs the VMM's own mapping, is of
// no use here.
func (t *remote) with(r Region, _ int) (table, error) {
	if err := r.check(); err != nil {
		return nil, err
	}
	if err := checkNew(r, t.list); err != nil {
		return nil, err
	}
	list := append(slices.Clone(t.list), r)
	slices.SortFunc(list, func(a, b Region) int {
		if a.Guest < b.Guest {
			return -1
		}
		return 1
	})
	return newRemote(t.pid, list), nil
}

// without implements table.
func (t *remote) without(r Region) (table, error) {
	i, err := findOld(r, t.list)
	if err != nil {
		return nil, err
	}
	return newRemote(t.pid, slices.Delete(slices.Clone(t.list), i, i+1)), nil
}

func (t *remote) regions() int { return len(t.list) }

// retire implements table. What the VMM has taken out of its table may hold its
// own data next: nothing may be written there.
func (t *remote) retire(next table) {
	keep := next.(*remote).list
	t.mu.Lock()
	defer t.mu.Unlock()
	t.allowed = slices.DeleteFunc(slices.Clone(t.list), func(r Region) bool {
		return !slices.Contains(keep, r)
	})
}

func (t *remote) close() {}

// find returns the user address of guest address addr, and how many bytes there
// are from it to the end of its region; none if it is not memory.
func find(list []Region, addr uint64) (user, left uint64) {
	for _, r := range list {
		if off := addr - r.Guest; off < r.Size { // addr below r.Guest wraps
			return r.User + off, r.Size - off
		}
	}
	return 0, 0
}

// Contains implements [Memory]. A range may span adjacent regions.
func (t *remote) Contains(addr, n uint64) bool {
	for n > 0 {
		_, left := find(t.list, addr)
		if left == 0 {
			return false
		}
		step := min(n, left)
		n -= step
		addr += step
	}
	return true
}

// Read implements [Memory].
func (t *remote) Read(addr uint64, p []byte) error { return t.copy(addr, p, unix.ProcessVMReadv) }

// Write implements [Memory].
func (t *remote) Write(addr uint64, p []byte) error { return t.copy(addr, p, unix.ProcessVMWritev) }

type vmCall func(pid int, local []unix.Iovec, remote []unix.RemoteIovec, flags uint) (int, error)

func (t *remote) copy(addr uint64, p []byte, call vmCall) error {
	t.mu.RLock()
	defer t.mu.RUnlock()
	for len(p) > 0 {
		user, left := find(t.allowed, addr)
		if left == 0 {
			return fmt.Errorf("%w: address %#x is not memory", ErrDriver, addr)
		}
		n := int(min(uint64(len(p)), left))
		if err := transfer(t.pid, user, p[:n], call); err != nil {
			return fmt.Errorf("%w: guest memory vanished: %w", ErrFrontend, err)
		}
		p = p[n:]
		addr += uint64(n)
	}
	return nil
}

// transfer copies between p and the VMM's memory. The kernel may stop between two
// pages.
func transfer(pid int, user uint64, p []byte, call vmCall) error {
	for len(p) > 0 {
		local := []unix.Iovec{{Base: unsafe.SliceData(p), Len: uint64(len(p))}}
		n, err := call(pid, local, []unix.RemoteIovec{{Base: uintptr(user), Len: len(p)}}, 0)
		if err == nil && n <= 0 {
			err = unix.EFAULT
		}
		if err != nil {
			return err
		}
		p = p[n:]
		user += uint64(n)
	}
	return nil
}

// Window implements [Memory].
func (t *remote) Window(user, n, align uint64) (Window, error) {
	for _, r := range t.list {
		off := user - r.User
		if off >= r.Size || n > r.Size-off {
			continue
		}
		if n == 0 || user&(align-1) != 0 {
			return nil, fmt.Errorf("%w: ring at user address %#x is not aligned to %d", ErrDriver, user, align)
		}
		return &remoteWindow{pid: t.pid, user: user, size: int(n)}, nil
	}
	return nil, fmt.Errorf("%w: ring at user address %#x, %d bytes, is not memory", ErrDriver, user, n)
}

// remoteWindow accesses rings in the VMM's memory, a system call an access.
//
// Order: the kernel takes references to the pages before it copies and drops them
// afterwards, by locked instructions, which are full barriers on x86: accesses of
// this side are totally ordered among themselves, as Window wants.
//
// Atomicity: the kernel copies whole words of 8 bytes by single instructions, but
// less than that byte by byte, and promises neither. So a load reads the word
// around its value twice in one call and takes it when both are equal: an index
// that is being changed is not taken for one that it never was. A store reads and
// writes the word around its value; all of it is the device's, as every ring that
// a device stores to is. At the end of a window, where no word fits, that is the
// event index, which a driver may see half written: it then kicks once too often
// or too rarely, and a queue looks again by itself (lateAfter).
type remoteWindow struct {
	pid  int
	user uint64
	size int
}

// vmFault is a failed access to the VMM's memory, as a bad address is to mapped
// memory.
type vmFault struct {
	error
	addr uint64
}

func (f vmFault) Addr() uintptr { return uintptr(f.addr) }

const wordSize = 8

// word returns where the word around n bytes at off starts, and how much of it is
// in the window.
func (w *remoteWindow) word(off, n int) (start, length int) {
	if off < 0 || off%n != 0 || off+n > w.size {
		panic(fmt.Sprintf("access to %d bytes at %d of a window of %d", n, off, w.size))
	}
	start = off &^ (wordSize - 1)
	return start, min(wordSize, w.size-start)
}

func (w *remoteWindow) move(off int, p []byte, call vmCall) {
	if err := transfer(w.pid, w.user+uint64(off), p, call); err != nil {
		panic(vmFault{err, w.user + uint64(off)})
	}
}

// load reads a word twice, until both are equal.
func (w *remoteWindow) load(start, length int) (word [wordSize]byte) {
	for {
		var twice [2][wordSize]byte
		local := []unix.Iovec{
			{Base: &twice[0][0], Len: uint64(length)}, {Base: &twice[1][0], Len: uint64(length)},
		}
		place := unix.RemoteIovec{Base: uintptr(w.user) + uintptr(start), Len: length}
		n, err := unix.ProcessVMReadv(w.pid, local, []unix.RemoteIovec{place, place}, 0)
		if err == nil && n != 2*length {
			err = unix.EFAULT
		}
		if err != nil {
			panic(vmFault{err, w.user + uint64(start)})
		}
		if twice[0] == twice[1] {
			return twice[0]
		}
	}
}

func (w *remoteWindow) Load16(off int) uint16 {
	start, length := w.word(off, 2)
	word := w.load(start, length)
	return binary.LittleEndian.Uint16(word[off-start:])
}

// LoadDesc reads once: a driver does not change a descriptor that it has offered,
// and one that does harms itself only, since what was read is what is checked.
func (w *remoteWindow) LoadDesc(off int) (lo, hi uint64) {
	var b [descSize]byte
	if off < 0 || off%descSize != 0 || off+descSize > w.size {
		panic(fmt.Sprintf("access to a descriptor at %d of a window of %d", off, w.size))
	}
	w.move(off, b[:], unix.ProcessVMReadv)
	return binary.LittleEndian.Uint64(b[:]), binary.LittleEndian.Uint64(b[8:])
}

func (w *remoteWindow) store(off int, value []byte) {
	start, length := w.word(off, len(value))
	if length < wordSize {
		w.move(off, value, unix.ProcessVMWritev)
		return
	}
	var word [wordSize]byte
	w.move(start, word[:], unix.ProcessVMReadv)
	copy(word[off-start:], value)
	w.move(start, word[:], unix.ProcessVMWritev)
}

func (w *remoteWindow) Store16(off int, v uint16) {
	w.store(off, binary.LittleEndian.AppendUint16(nil, v))
}

func (w *remoteWindow) Store32(off int, v uint32) {
	w.store(off, binary.LittleEndian.AppendUint32(nil, v))
}
