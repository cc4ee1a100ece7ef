package vhostuser

import (
	"fmt"
	"slices"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// mapping is one region mapped into this process. Several mapped tables may
// share it, one a table change.
type mapping struct {
	Region
	mem   []byte // the region
	whole []byte // what mmap returned: mem and what alignment put before it
	refs  atomic.Int32
}

// mapRegion maps r from fd, which stays the caller's. The file must be large
// enough now; if it shrinks later, accesses fault.
func mapRegion(r Region, fd int) (*mapping, error) {
	if err := r.check(); err != nil {
		return nil, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, fmt.Errorf("stat memory of %v: %w", r, err)
	}
	if st.Size < 0 || r.Offset+r.Size > uint64(st.Size) {
		return nil, fmt.Errorf("%w: %v is larger than its file of %d bytes", ErrFrontend, r, st.Size)
	}
	align, err := pageSize(fd)
	if err != nil {
		return nil, err
	}
	start := r.Offset &^ (align - 1)
	length := (r.Offset + r.Size - start + align - 1) &^ (align - 1)
	whole, err := unix.Mmap(fd, int64(start), int(length), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_NORESERVE)
	if err != nil {
		return nil, fmt.Errorf("map %v: %w", r, err)
	}
	// A core dump of this process must not contain the guest.
	if err := unix.Madvise(whole, unix.MADV_DONTDUMP); err != nil {
		unix.Munmap(whole)
		return nil, fmt.Errorf("advise on %v: %w", r, err)
	}
	m := &mapping{Region: r, whole: whole, mem: whole[r.Offset-start:][:r.Size:r.Size]}
	m.refs.Store(1)
	return m, nil
}

// pageSize is the granularity at which fd can be mapped: that of huge pages
// on hugetlbfs.
func pageSize(fd int) (uint64, error) {
	var fs unix.Statfs_t
	if err := unix.Fstatfs(fd, &fs); err != nil {
		return 0, fmt.Errorf("statfs of guest memory: %w", err)
	}
	if fs.Type == unix.HUGETLBFS_MAGIC {
		return uint64(fs.Bsize), nil
	}
	return uint64(unix.Getpagesize()), nil
}

func (m *mapping) release() {
	if m.refs.Add(-1) == 0 {
		unix.Munmap(m.whole)
	}
}

// mapped is guest memory mapped into this process: regions sorted by guest
// address, without overlap. It is immutable.
type mapped struct {
	maps []*mapping
}

// newMapped makes a table of maps and takes over the caller's references.
func newMapped(maps []*mapping) *mapped {
	return &mapped{maps: maps}
}

// with implements table.
func (t *mapped) with(r Region, fd int) (table, error) {
	if err := checkNew(r, t.list()); err != nil {
		return nil, err
	}
	m, err := mapRegion(r, fd)
	if err != nil {
		return nil, err
	}
	for _, o := range t.maps {
		o.refs.Add(1)
	}
	at := slices.IndexFunc(t.maps, func(o *mapping) bool { return o.Guest > r.Guest })
	if at < 0 {
		at = len(t.maps)
	}
	return newMapped(slices.Insert(slices.Clone(t.maps), at, m)), nil
}

// without implements table.
func (t *mapped) without(r Region) (table, error) {
	i, err := findOld(r, t.list())
	if err != nil {
		return nil, err
	}
	maps := slices.Delete(slices.Clone(t.maps), i, i+1)
	for _, o := range maps {
		o.refs.Add(1)
	}
	return newMapped(maps), nil
}

func (t *mapped) list() []Region {
	list := make([]Region, len(t.maps))
	for i, m := range t.maps {
		list[i] = m.Region
	}
	return list
}

func (t *mapped) regions() int { return len(t.maps) }

// retire implements table. The file stays mapped, and nothing else comes to be
// there: accesses do no harm.
func (t *mapped) retire(table) {}

func (t *mapped) close() {
	for _, m := range t.maps {
		m.release()
	}
	t.maps = nil
}

// find returns the rest of the region that holds addr, nil if none does.
func (t *mapped) find(addr uint64) []byte {
	for _, m := range t.maps {
		if addr-m.Guest < m.Size { // addr below m.Guest wraps to a huge value
			return m.mem[addr-m.Guest:]
		}
	}
	return nil
}

// Contains implements [Memory]. A range may span adjacent regions.
func (t *mapped) Contains(addr, n uint64) bool {
	for n > 0 {
		b := t.find(addr)
		if b == nil {
			return false
		}
		if n <= uint64(len(b)) {
			return true
		}
		n -= uint64(len(b))
		addr += uint64(len(b))
	}
	return true
}

// Read implements [Memory].
func (t *mapped) Read(addr uint64, p []byte) error {
	for len(p) > 0 {
		b := t.find(addr)
		if b == nil {
			return fmt.Errorf("%w: address %#x is not memory", ErrDriver, addr)
		}
		n := copy(p, b)
		p = p[n:]
		addr += uint64(n)
	}
	return nil
}

// Write implements [Memory].
func (t *mapped) Write(addr uint64, p []byte) error {
	for len(p) > 0 {
		b := t.find(addr)
		if b == nil {
			return fmt.Errorf("%w: address %#x is not memory", ErrDriver, addr)
		}
		n := copy(b, p)
		p = p[n:]
		addr += uint64(n)
	}
	return nil
}

// Window implements [Memory].
func (t *mapped) Window(user, n, align uint64) (Window, error) {
	for _, m := range t.maps {
		off := user - m.User
		if off >= m.Size || n > m.Size-off {
			continue
		}
		w := mappedWindow(m.mem[off:][:n:n])
		if n == 0 || uintptr(unsafe.Pointer(&w[0]))&uintptr(align-1) != 0 {
			return nil, fmt.Errorf("%w: ring at user address %#x is not aligned to %d", ErrDriver, user, align)
		}
		return w, nil
	}
	return nil, fmt.Errorf("%w: ring at user address %#x, %d bytes, is not memory", ErrDriver, user, n)
}

// mappedWindow accesses memory shared with the guest. Go has no 16-bit
// atomics: loads take the aligned 32-bit word around the value, which shares
// its page; stores are single plain instructions followed by an atomic
// operation, since storing the neighbour as well would overwrite what the
// guest writes there. Hosts are little-endian (checked by Serve), as virtio.
type mappedWindow []byte

func (w mappedWindow) at(off, size int) unsafe.Pointer {
	return unsafe.Pointer(&w[off : off+size][0])
}

func (w mappedWindow) Load16(off int) uint16 {
	p := w.at(off, 2)
	odd := uintptr(p) & 2
	return uint16(atomic.LoadUint32((*uint32)(unsafe.Add(p, -int(odd)))) >> (odd * 8))
}

func (w mappedWindow) LoadDesc(off int) (lo, hi uint64) {
	p := w.at(off, 16)
	lo = atomic.LoadUint64((*uint64)(p))
	hi = atomic.LoadUint64((*uint64)(unsafe.Add(p, 8)))
	return lo, hi
}

func (w mappedWindow) Store16(off int, v uint16) {
	*(*uint16)(w.at(off, 2)) = v
	var barrier atomic.Uint32
	barrier.Add(1)
}

func (w mappedWindow) Store32(off int, v uint32) {
	atomic.StoreUint32((*uint32)(w.at(off, 4)), v)
}
