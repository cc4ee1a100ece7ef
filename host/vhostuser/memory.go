package vhostuser

import (
	"fmt"
	"runtime/debug"
	"sync"
)

// Memory is one fixed picture of a guest's memory: the regions the front-end
// described last. Accesses are valid between the moment a picture is acquired
// from its space and its release; no slice of guest memory leaves it.
//
// There are two kinds. Mapped memory is the file that backs the guest, mapped
// into this process. Remote memory is the address space of the VMM, reached by
// process_vm_readv and process_vm_writev at the user addresses of the memory
// table: what a private copy-on-write mapping holds is to be seen there only.
//
// Every access may fault, because the front-end can shrink the file under a
// mapping or go away. A fault is a panic whose value is an error with an
// `Addr() uintptr` method, which [recoverFault] turns into an error; all callers
// outside this package reach memory through [Queue.Do] and [Request] and see
// errors only.
type Memory interface {
	// Contains reports whether all n bytes at guest address addr are memory.
	Contains(addr, n uint64) bool
	// Read copies guest memory at guest address addr into p, or fails
	// without touching anything outside guest memory.
	Read(addr uint64, p []byte) error
	// Write copies p to guest address addr, or fails likewise.
	Write(addr uint64, p []byte) error
	// Window finds the n bytes at the front-end's user address, which must
	// be a multiple of align, a power of two.
	Window(user, n, align uint64) (Window, error)
}

// table is a Memory that can be changed: each change makes a new one.
type table interface {
	Memory
	// with returns a new table that has the region as well, backed by fd, which
	// stays the caller's.
	with(r Region, fd int) (table, error)
	// without returns a new table that lacks the region.
	without(r Region) (table, error)
	// regions is how many there are.
	regions() int
	// retire makes accesses fail from now on to what next does not have, for
	// requests that were taken under this one. It waits for accesses in progress.
	retire(next table)
	// close releases the memory; nothing accesses it any more.
	close()
}

// Window is a checked piece of guest memory that holds part of a virtqueue.
// All accesses are atomic and totally ordered among themselves, also across
// windows: what a driver or device must separate by a memory barrier needs no
// other barrier. Offsets are multiples of the access size and inside the
// window; others are a programming error and panic.
//
// Remote windows keep the order, since each access is a system call, but the
// atomicity only as far as the kernel's copy keeps it: see [remoteWindow].
type Window interface {
	Load16(off int) uint16
	// LoadDesc reads the 16 bytes of a descriptor, as two words.
	LoadDesc(off int) (lo, hi uint64)
	Store16(off int, v uint16)
	Store32(off int, v uint32)
}

// fault is what a failed access to guest memory panics with; the runtime's
// own error for a bad address implements it.
type fault interface {
	error
	Addr() uintptr
}

// guard lets accesses to guest memory in this goroutine panic with a fault
// instead of ending the process, until recoverFault:
//
//	defer recoverFault(&err, guard())
func guard() (old bool) { return debug.SetPanicOnFault(true) }

// recoverFault turns a fault since guard into *errp and undoes guard.
func recoverFault(errp *error, old bool) {
	debug.SetPanicOnFault(old)
	switch r := recover().(type) {
	case nil:
	case fault:
		*errp = fmt.Errorf("%w: guest memory vanished: %w", ErrFrontend, r)
	default:
		panic(r)
	}
}

// space is the guest's memory as it changes. A queue acquires the current
// picture for one batch, and a taken request pins it until it is done; a replaced
// picture is closed when its last user is, so that nothing is unmapped under an
// access.
type space struct {
	mu  sync.Mutex
	cur *picture // never nil
}

// picture counts the users of one Memory.
type picture struct {
	table
	users   int // batches; guarded by space.mu, as all below
	pins    int // taken requests
	retired bool
	drained chan struct{} // closed when it is retired and no batch uses it
}

func newSpace(t table) *space { return &space{cur: &picture{table: t, drained: make(chan struct{})}} }

func (s *space) acquire() *picture {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cur.users++
	return s.cur
}

func (s *space) release(p *picture) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p.users--
	if p.retired && p.users == 0 {
		close(p.drained)
	}
}

// pin keeps a picture that is acquired for longer than its batch.
func (s *space) pin(p *picture) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p.pins++
}

func (s *space) unpin(p *picture) {
	s.mu.Lock()
	p.pins--
	last := p.retired && p.users == 0 && p.pins == 0
	s.mu.Unlock()
	if last {
		p.close()
	}
}

// replace makes t the current memory and returns when no batch uses the previous
// one any more. Batches are short and never wait for the caller of replace;
// requests that were taken may go on for long, and keep what the previous memory
// and t have in common.
func (s *space) replace(t table) {
	s.mu.Lock()
	old := s.cur
	s.cur = &picture{table: t, drained: make(chan struct{})}
	old.retired = true
	if old.users == 0 {
		close(old.drained)
	}
	old.pins++ // ours, so that nobody closes it before it is retired
	s.mu.Unlock()

	<-old.drained
	old.retire(t)
	s.unpin(old)
}
