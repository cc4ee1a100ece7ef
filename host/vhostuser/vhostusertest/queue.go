package vhostusertest

import (
	"encoding/binary"
	"os"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Descriptor flags.
const (
	Next     = 1
	Write    = 2
	Indirect = 4
)

// Desc is a descriptor.
type Desc struct {
	Addr  uint64
	Len   uint32
	Flags uint16
	Next  uint16
}

// Queue is the driver's side of a virtqueue. It is for one goroutine.
type Queue struct {
	vm    *VM
	index int
	Size  int

	DescAddr, AvailAddr, UsedAddr uint64

	kick, call *os.File
	free       []uint16         // descriptors
	chains     map[uint16]chain // by head
	avail      uint16           // next
	seen       uint16           // used entries taken
}

// chain is a buffer that the device has.
type chain struct {
	descs []uint16
	room  []byte
}

// Buffer is a buffer that came back.
type Buffer struct {
	Head    uint16
	Written uint32
	Room    []byte // all of the device's room
}

// AddQueue lays out queue i; Start makes it run.
func (vm *VM) AddQueue(i, size int) *Queue {
	vm.TB.Helper()
	q := &Queue{vm: vm, index: i, Size: size,
		DescAddr:  vm.Alloc(16 * size),
		AvailAddr: vm.Alloc(4 + 2*size + 2),
		UsedAddr:  vm.Alloc(4 + 8*size + 2),
	}
	for len(vm.queues) <= i {
		vm.queues = append(vm.queues, nil)
	}
	vm.queues[i] = q
	q.Reset()
	return q
}

// Reset puts the driver's side back to an empty ring.
func (q *Queue) Reset() {
	clear(q.vm.Bytes(q.AvailAddr, 4+2*q.Size+2))
	clear(q.vm.Bytes(q.UsedAddr, 4+8*q.Size+2))
	q.avail, q.seen, q.free, q.chains = 0, 0, nil, map[uint16]chain{}
	for i := range q.Size {
		q.free = append(q.free, uint16(i))
	}
}

// AddrPayload encodes SET_VRING_ADDR for the queue.
func (q *Queue) AddrPayload() []byte {
	b := State(uint32(q.index), 0)
	for _, a := range []uint64{q.DescAddr, q.UsedAddr, q.AvailAddr} {
		b = binary.LittleEndian.AppendUint64(b, User(a))
	}
	return binary.LittleEndian.AppendUint64(b, 0)
}

// EventFD makes an eventfd as a VMM does.
func (vm *VM) EventFD() *os.File {
	vm.TB.Helper()
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		vm.TB.Fatal(err)
	}
	return os.NewFile(uintptr(fd), "eventfd")
}

// Start makes queue i run from where the driver is.
func (vm *VM) Start(i int) {
	vm.TB.Helper()
	q := vm.queues[i]
	kick, call := q.Renew()
	vm.Set(SetVringNum, State(uint32(i), uint32(q.Size)))
	vm.Set(SetVringBase, State(uint32(i), uint32(q.UsedIdx())))
	vm.Set(SetVringAddr, q.AddrPayload())
	vm.Set(SetVringKick, U64(uint64(i)), kick)
	vm.Set(SetVringCall, U64(uint64(i)), call)
	vm.Set(SetVringEnable, State(uint32(i), 1))
}

// Renew makes new eventfds for the queue and returns their descriptors.
func (q *Queue) Renew() (kick, call int) {
	q.close()
	q.kick, q.call = q.vm.EventFD(), q.vm.EventFD()
	return rawFD(q.vm, q.kick), rawFD(q.vm, q.call)
}

// rawFD is f's descriptor; unlike File.Fd it leaves it non-blocking.
func rawFD(vm *VM, f *os.File) (fd int) {
	c, err := f.SyscallConn()
	if err == nil {
		err = c.Control(func(p uintptr) { fd = int(p) })
	}
	if err != nil {
		vm.TB.Fatal(err)
	}
	return fd
}

// Stop stops queue i and returns where the device stood.
func (vm *VM) Stop(i int) uint16 {
	vm.TB.Helper()
	reply := vm.Get(GetVringBase, State(uint32(i), 0))
	return uint16(binary.LittleEndian.Uint32(reply[4:]))
}

func (q *Queue) close() {
	if q != nil && q.kick != nil {
		q.kick.Close()
		q.call.Close()
	}
}

// Events returns the queue's kick and call eventfds.
func (q *Queue) Events() []*os.File { return []*os.File{q.kick, q.call} }

// SetDesc writes entry i of the descriptor table.
func (q *Queue) SetDesc(i int, d Desc) {
	PutDesc(q.vm.Bytes(q.DescAddr+uint64(i)*16, 16), d)
}

// PutDesc encodes d, as in indirect tables.
func PutDesc(b []byte, d Desc) {
	binary.LittleEndian.PutUint64(b[0:], d.Addr)
	binary.LittleEndian.PutUint32(b[8:], d.Len)
	binary.LittleEndian.PutUint16(b[12:], d.Flags)
	binary.LittleEndian.PutUint16(b[14:], d.Next)
}

// Offer gives the device a buffer of the readable parts out and one writable
// part of room bytes, if not zero, in freshly allocated memory.
func (q *Queue) Offer(out [][]byte, room int) uint16 {
	q.vm.TB.Helper()
	var ds []Desc
	for _, b := range out {
		addr := q.vm.Alloc(len(b))
		copy(q.vm.Bytes(addr, len(b)), b)
		ds = append(ds, Desc{Addr: addr, Len: uint32(len(b))})
	}
	var mem []byte
	if room > 0 {
		addr := q.vm.Alloc(room)
		mem = q.vm.Bytes(addr, room)
		ds = append(ds, Desc{Addr: addr, Len: uint32(room), Flags: Write})
	}
	return q.OfferDescs(ds, mem)
}

// OfferDescs chains ds and offers them; room is what Take returns with them.
func (q *Queue) OfferDescs(ds []Desc, room []byte) uint16 {
	q.vm.TB.Helper()
	if len(ds) > len(q.free) {
		q.vm.TB.Fatalf("queue %d: no descriptors left", q.index)
	}
	ids := append([]uint16(nil), q.free[:len(ds)]...)
	q.free = q.free[len(ds):]
	for i, d := range ds {
		if i+1 < len(ds) {
			d.Flags |= Next
			d.Next = ids[i+1]
		}
		q.SetDesc(int(ids[i]), d)
	}
	q.chains[ids[0]] = chain{ids, room}
	q.Push(ids[0])
	return ids[0]
}

// Push adds head to the available ring.
func (q *Queue) Push(head uint16) {
	binary.LittleEndian.PutUint16(q.vm.Bytes(q.AvailAddr+4+2*uint64(int(q.avail)%q.Size), 2), head)
	q.avail++
	q.SetAvailIdx(q.avail)
}

// SetAvailIdx writes the index of the available ring.
func (q *Queue) SetAvailIdx(idx uint16) {
	flags := binary.LittleEndian.Uint16(q.vm.Bytes(q.AvailAddr, 2))
	atomic.StoreUint32(q.word(q.AvailAddr), uint32(flags)|uint32(idx)<<16)
}

func (q *Queue) word(addr uint64) *uint32 {
	return (*uint32)(unsafe.Pointer(&q.vm.Bytes(addr, 4)[0]))
}

// UsedIdx reads the index of the used ring.
func (q *Queue) UsedIdx() uint16 { return uint16(atomic.LoadUint32(q.word(q.UsedAddr)) >> 16) }

// Kick tells the device.
func (q *Queue) Kick() {
	one := [8]byte{1}
	if _, err := q.kick.Write(one[:]); err != nil {
		q.vm.TB.Errorf("kick: %v", err)
	}
}

// Take returns a buffer that the device is done with, if there is one, and
// asks for an interrupt at the next.
func (q *Queue) Take() (Buffer, bool) {
	if q.UsedIdx() == q.seen {
		// used_event, then a second look: the device may just have published.
		binary.LittleEndian.PutUint16(q.vm.Bytes(q.AvailAddr+4+2*uint64(q.Size), 2), q.seen)
		atomic.AddUint32(q.word(q.AvailAddr), 0)
		if q.UsedIdx() == q.seen {
			return Buffer{}, false
		}
	}
	e := q.vm.Bytes(q.UsedAddr+4+8*uint64(int(q.seen)%q.Size), 8)
	b := Buffer{Head: uint16(binary.LittleEndian.Uint32(e)), Written: binary.LittleEndian.Uint32(e[4:])}
	q.seen++
	c := q.chains[b.Head]
	delete(q.chains, b.Head)
	q.free = append(q.free, c.descs...)
	b.Room = c.room
	return b, true
}

// Wait is Take that waits for the device's interrupt.
func (q *Queue) Wait() Buffer {
	q.vm.TB.Helper()
	b, err := q.TryWait(Timeout)
	if err != nil {
		q.vm.TB.Fatalf("queue %d: device finished nothing: %v", q.index, err)
	}
	return b
}

// TryWait is Wait that gives up.
func (q *Queue) TryWait(limit time.Duration) (Buffer, error) {
	if err := q.call.SetReadDeadline(time.Now().Add(limit)); err != nil {
		return Buffer{}, err
	}
	for {
		if b, ok := q.Take(); ok {
			return b, nil
		}
		var n [8]byte
		if _, err := q.call.Read(n[:]); err != nil {
			return Buffer{}, err
		}
	}
}
