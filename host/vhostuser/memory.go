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
// Every access may fault, because the front-end can shrink the file under a
// mapping or go away. A fault is a panic whose value is an error with an
// `Addr() uintptr` method, which [recoverFault] turns into an error; all callers
// outside this package reach memory through [Queue.Do] and see errors only.
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
	// close releases the memory; nothing accesses it any more.
	close()
}

// Window is a checked piece of guest memory that holds part of a virtqueue.
// All accesses are atomic and totally ordered among themselves, also across
// windows: what a driver or device must separate by a memory barrier needs no
// other barrier. Offsets are multiples of the access size and inside the
// window; others are a programming error and panic.
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
// picture for one batch; a replaced picture is closed when its last user is
// done, so that nothing is unmapped under an access.
type space struct {
	mu  sync.Mutex
	cur *picture // never nil
}

// picture counts the users of one Memory.
type picture struct {
	Memory
	users   int // guarded by space.mu
	retired bool
	drained chan struct{}
}

func newSpace() *space {
	return &space{cur: &picture{Memory: newMapped(nil), drained: make(chan struct{})}}
}

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

// replace makes m the current memory and returns when nothing uses the
// previous one any more and it is closed. Users hold a picture only for one
// batch, and a batch never waits for the caller of replace.
func (s *space) replace(m Memory) {
	s.mu.Lock()
	old := s.cur
	s.cur = &picture{Memory: m, drained: make(chan struct{})}
	old.retired = true
	if old.users == 0 {
		close(old.drained)
	}
	s.mu.Unlock()

	<-old.drained
	old.close()
}
