// Package vhostusertest is a VMM and a guest driver in one, for the tests of
// virtio devices: it speaks the front-end side of vhost-user over a connected
// socket and drives split virtqueues in a memfd, as QEMU and Linux do. It can
// also misbehave: every message, descriptor and ring field can be set by hand.
//
//	vm := vhostusertest.New(t, conn)
//	vm.Boot(3, 128)
//	q := vm.Queue(1)
//	head := q.Offer([][]byte{request}, 512)
//	q.Kick()
//	q.Wait()
//
// Failures end the test. It is not a model of good error handling and belongs
// in no product code.
package vhostusertest

import (
	"encoding/binary"
	"io"
	"net"
	"os"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Requests of the protocol, for messages sent by hand.
const (
	GetFeatures         = 1
	SetFeatures         = 2
	SetOwner            = 3
	ResetOwner          = 4
	SetMemTable         = 5
	SetVringNum         = 8
	SetVringAddr        = 9
	SetVringBase        = 10
	GetVringBase        = 11
	SetVringKick        = 12
	SetVringCall        = 13
	SetVringErr         = 14
	GetProtocolFeatures = 15
	SetProtocolFeatures = 16
	GetQueueNum         = 17
	SetVringEnable      = 18
	GetConfig           = 24
	SetConfig           = 25
	ResetDevice         = 34
	GetMaxMemSlots      = 36
	AddMemReg           = 37
	RemMemReg           = 38
)

// Feature bits.
const (
	FeatureIndirect = 1 << 28
	FeatureEventIdx = 1 << 29
	FeatureProtocol = 1 << 30
	FeatureVersion1 = 1 << 32
)

// needReply asks for an acknowledgement of a message.
const needReply = 0x8

// Timeout bounds every wait for the device.
const Timeout = 20 * time.Second

// MapUser maps the guest's memory at the VMM's addresses, for a process that is to
// be the VMM whose address space a device reaches. Private memory is a copy on
// write, which the file does not see.
func MapUser(fd int, private bool) (low, high []byte, err error) {
	flags := unix.MAP_SHARED
	if private {
		flags = unix.MAP_PRIVATE
	}
	place := func(user uintptr, size, offset int) []byte {
		var p unsafe.Pointer
		if err == nil {
			p, err = unix.MmapPtr(fd, int64(offset), unsafe.Add(nil, user), uintptr(size), unix.PROT_READ|unix.PROT_WRITE, flags|unix.MAP_FIXED_NOREPLACE)
		}
		if err != nil {
			return nil
		}
		return unsafe.Slice((*byte)(p), size)
	}
	low, high = place(userLow, LowSize, 0), place(userHigh, HighSize, LowSize)
	return low, high, err
}

// Guest memory: two regions with a hole between them, in one file.
const (
	LowBase  = 0x0
	LowSize  = 8 << 20
	HighBase = 0x1_0000_0000
	HighSize = 8 << 20
	userLow  = 0x1000_0000_0000
	userHigh = 0x1010_0000_0000
	memSize  = LowSize + HighSize
)

// VM is the front-end and the memory of a guest.
type VM struct {
	TB       testing.TB
	Conn     *net.UnixConn
	File     *os.File // the memory
	Mem      []byte   // the same, mapped
	Features uint64   // what the driver acknowledges, of what is offered

	queues []*Queue
	next   uint64 // bump allocator in the low region
}

// New makes a VM with cleared memory that talks over conn. Both are released
// when the test ends.
func New(tb testing.TB, conn *net.UnixConn) *VM {
	tb.Helper()
	fd, err := unix.MemfdCreate("guest", unix.MFD_CLOEXEC)
	if err != nil {
		tb.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), "guest")
	if err := f.Truncate(memSize); err != nil {
		tb.Fatal(err)
	}
	mem, err := unix.Mmap(fd, 0, memSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		tb.Fatal(err)
	}
	vm := &VM{TB: tb, Conn: conn, File: f, Mem: mem, next: 0x1000,
		Features: FeatureIndirect | FeatureEventIdx | FeatureProtocol | FeatureVersion1}
	tb.Cleanup(func() {
		conn.Close()
		for _, q := range vm.queues {
			q.close()
		}
		f.Close()
		_ = unix.Munmap(mem)
	})
	return vm
}

// Pair returns the two ends of a connected unix socket; the first is for a VM.
func Pair(tb testing.TB) (front, back *net.UnixConn) {
	tb.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		tb.Fatal(err)
	}
	conns := make([]*net.UnixConn, 2)
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "pair")
		c, err := net.FileConn(f)
		f.Close()
		if err != nil {
			tb.Fatal(err)
		}
		conns[i] = c.(*net.UnixConn)
	}
	return conns[0], conns[1]
}

// Alloc returns the guest address of n unused bytes, aligned to 64.
func (vm *VM) Alloc(n int) uint64 {
	addr := vm.next
	vm.next += (uint64(n) + 63) &^ 63
	if vm.next > LowSize {
		vm.TB.Fatal("guest memory exhausted")
	}
	return addr
}

// Bytes returns n bytes of guest memory.
func (vm *VM) Bytes(addr uint64, n int) []byte {
	if addr >= HighBase {
		addr -= HighBase - LowSize
	}
	return vm.Mem[addr:][:n:n]
}

// User translates a guest address to the VMM's.
func User(addr uint64) uint64 {
	if addr >= HighBase {
		return addr - HighBase + userHigh
	}
	return addr + userLow
}

// Send sends one message.
func (vm *VM) Send(req, flags uint32, payload []byte, fds ...int) error {
	b := binary.LittleEndian.AppendUint32(nil, req)
	b = binary.LittleEndian.AppendUint32(b, 1|flags)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(payload)))
	var oob []byte
	if len(fds) > 0 {
		oob = unix.UnixRights(fds...)
	}
	_, _, err := vm.Conn.WriteMsgUnix(append(b, payload...), oob, nil)
	return err
}

// Reply reads a reply's payload.
func (vm *VM) Reply() ([]byte, error) {
	if err := vm.Conn.SetReadDeadline(time.Now().Add(Timeout)); err != nil {
		return nil, err
	}
	var head [12]byte
	if _, err := io.ReadFull(vm.Conn, head[:]); err != nil {
		return nil, err
	}
	payload := make([]byte, binary.LittleEndian.Uint32(head[8:]))
	_, err := io.ReadFull(vm.Conn, payload)
	return payload, err
}

// Get sends a message that has a reply and returns it.
func (vm *VM) Get(req uint32, payload []byte) []byte {
	vm.TB.Helper()
	if err := vm.Send(req, 0, payload); err != nil {
		vm.TB.Fatalf("send message %d: %v", req, err)
	}
	reply, err := vm.Reply()
	if err != nil {
		vm.TB.Fatalf("reply to message %d: %v", req, err)
	}
	return reply
}

// Try sends a message, waits for its acknowledgement, and reports whether the
// device obeyed.
func (vm *VM) Try(req uint32, payload []byte, fds ...int) bool {
	if err := vm.Send(req, needReply, payload, fds...); err != nil {
		return false
	}
	reply, err := vm.Reply()
	return err == nil && len(reply) == 8 && binary.LittleEndian.Uint64(reply) == 0
}

// Set is Try that must succeed.
func (vm *VM) Set(req uint32, payload []byte, fds ...int) {
	vm.TB.Helper()
	if !vm.Try(req, payload, fds...) {
		vm.TB.Fatalf("device refused message %d", req)
	}
}

// U64 encodes a payload of one number.
func U64(v uint64) []byte { return binary.LittleEndian.AppendUint64(nil, v) }

// State encodes the payload of the vring messages that carry a number.
func State(index, value uint32) []byte {
	return binary.LittleEndian.AppendUint32(binary.LittleEndian.AppendUint32(nil, index), value)
}

// RegionPayload encodes one memory region.
func RegionPayload(guest, size, user, offset uint64) []byte {
	var b []byte
	for _, v := range []uint64{guest, size, user, offset} {
		b = binary.LittleEndian.AppendUint64(b, v)
	}
	return b
}

// Negotiate does what a front-end does first and returns the features that the
// device offers.
func (vm *VM) Negotiate() uint64 {
	vm.TB.Helper()
	offered := binary.LittleEndian.Uint64(vm.Get(GetFeatures, nil))
	protocol := binary.LittleEndian.Uint64(vm.Get(GetProtocolFeatures, nil))
	if err := vm.Send(SetProtocolFeatures, 0, U64(protocol)); err != nil {
		vm.TB.Fatal(err)
	}
	vm.Set(SetOwner, nil)
	vm.Features &= offered
	vm.Set(SetFeatures, U64(vm.Features))
	return offered
}

// ShareMemory sends the memory table.
func (vm *VM) ShareMemory() {
	vm.TB.Helper()
	vm.Set(SetMemTable, MemTable(), vm.fd(), vm.fd())
}

// MemTable encodes the table that ShareMemory sends.
func MemTable() []byte {
	b := binary.LittleEndian.AppendUint64(nil, 2)
	b = append(b, RegionPayload(LowBase, LowSize, userLow, 0)...)
	return append(b, RegionPayload(HighBase, HighSize, userHigh, LowSize)...)
}

func (vm *VM) fd() int { return int(vm.File.Fd()) }

// Boot negotiates, shares memory and starts n queues of the given size.
func (vm *VM) Boot(n, size int) {
	vm.TB.Helper()
	vm.Negotiate()
	vm.ShareMemory()
	for i := range n {
		vm.AddQueue(i, size)
		vm.Start(i)
	}
}

// Queue returns a queue that AddQueue made.
func (vm *VM) Queue(i int) *Queue { return vm.queues[i] }
