package accel

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// From linux/kvm.h (x86-64): requests, exit reasons, offsets in struct kvm_run.
const (
	kvmGetAPIVersion       = 0xae00
	kvmCreateVM            = 0xae01
	kvmGetVCPUMmapSize     = 0xae04
	kvmCreateVCPU          = 0xae41
	kvmSetUserMemoryRegion = 0x4020ae46
	kvmSetTSSAddr          = 0xae47
	kvmRun                 = 0xae80
	kvmSetRegs             = 0x4090ae82
	kvmGetSregs            = 0x8138ae83
	kvmSetSregs            = 0x4138ae84

	kvmAPIVersion = 12

	kvmExitIO = 2

	runImmediateExit = 0 // the word whose second byte is immediate_exit
	runExitReason    = 8
	runIOSize        = 33
	runIOPort        = 34
	runIODataOffset  = 40
	runMinSize       = 48
)

const (
	// probeLoops is how often the guest goes round; three instructions each.
	// Native code needs a few milliseconds, an interpreter a second or more.
	probeLoops = 1 << 22
	// probeLimit is what "native speed" allows, on a machine that is busy.
	probeLimit = 500 * time.Millisecond
	// probeGrace is how long the vCPU may take to stop when told to.
	probeGrace = 200 * time.Millisecond

	probeAddress = 0x1000
	probePort    = 0xf4
	probeTSS     = 0xfffbd000 // three pages below 4 GiB that no guest memory covers
)

var errTooSlow = fmt.Errorf("the probe guest did not finish in %s: guest code is emulated, not run", probeLimit)

// probeCode is 16-bit real-mode code: count ECX down and EAX up, write EAX to
// a port, halt.
func probeCode() []byte {
	code := []byte{
		0x66, 0xb9, 0, 0, 0, 0, // mov ecx, probeLoops
		0x66, 0x31, 0xc0, // xor eax, eax
		0x66, 0x40, // inc eax
		0x66, 0x49, // dec ecx
		0x75, 0xfa, // jnz to the inc
		0xba, probePort, 0, // mov dx, probePort
		0x66, 0xef, // out dx, eax
		0xf4, // hlt
	}
	binary.LittleEndian.PutUint32(code[2:], probeLoops)
	return code
}

// runProbeGuest runs the probe guest and returns the time of its loop. It
// comes back within probeLimit and probeGrace even if the vCPU never does:
// then its thread is given up.
func runProbeGuest(ctx context.Context, device *os.File) (time.Duration, error) {
	guest, err := newProbeGuest(int(device.Fd()))
	if err != nil {
		return 0, err
	}
	type result struct {
		took time.Duration
		err  error
	}
	thread, ended := make(chan int, 1), make(chan result, 1)
	go func() {
		runtime.LockOSThread() // the kick below must hit this thread
		defer runtime.UnlockOSThread()
		thread <- unix.Gettid()
		start := time.Now()
		err := guest.run()
		ended <- result{time.Since(start), err}
	}()
	tid := <-thread

	limit := time.NewTimer(probeLimit)
	defer limit.Stop()
	select {
	case r := <-ended:
		guest.close()
		return r.took, r.err
	case <-limit.C:
	case <-ctx.Done():
	}
	// The flags cover a vCPU that is not in the kernel yet, the signal (which
	// the Go runtime expects at any time) one that is.
	guest.stop()
	_ = unix.Tgkill(os.Getpid(), tid, syscall.SIGURG)
	grace := time.NewTimer(probeGrace)
	defer grace.Stop()
	select {
	case <-ended:
		guest.close()
	case <-grace.C:
		go func() { // the thread is lost until the kernel gives it back
			<-ended
			guest.close()
		}()
	}
	return 0, errTooSlow
}

// probeGuest is a VM with one vCPU and one page of memory.
type probeGuest struct {
	vm, vcpu int
	memory   []byte
	shared   []byte // struct kvm_run
	stopping atomic.Bool
}

func newProbeGuest(kvm int) (*probeGuest, error) {
	g := &probeGuest{vm: -1, vcpu: -1}
	if err := g.setUp(kvm); err != nil {
		g.close()
		return nil, err
	}
	return g, nil
}

func (g *probeGuest) setUp(kvm int) error {
	version, err := ioctl(kvm, kvmGetAPIVersion, 0)
	if err != nil {
		return fmt.Errorf("is no KVM device: %w", err)
	}
	if version != kvmAPIVersion {
		return fmt.Errorf("KVM API version %d, want %d", version, kvmAPIVersion)
	}
	if g.vm, err = ioctl(kvm, kvmCreateVM, 0); err != nil {
		g.vm = -1
		return fmt.Errorf("create a VM: %w", err)
	}
	if _, err := ioctl(g.vm, kvmSetTSSAddr, probeTSS); err != nil {
		return fmt.Errorf("set the TSS address: %w", err)
	}
	if g.memory, err = unix.Mmap(-1, 0, os.Getpagesize(), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS); err != nil {
		return fmt.Errorf("map guest memory: %w", err)
	}
	copy(g.memory, probeCode())
	region := struct { // struct kvm_userspace_memory_region
		slot, flags         uint32
		guest, size, memory uint64
	}{0, 0, probeAddress, uint64(len(g.memory)), uint64(uintptr(unsafe.Pointer(&g.memory[0])))}
	if err := ioctlPtr(g.vm, kvmSetUserMemoryRegion, unsafe.Pointer(&region)); err != nil {
		return fmt.Errorf("give the VM memory: %w", err)
	}
	return g.setUpVCPU(kvm)
}

func (g *probeGuest) setUpVCPU(kvm int) error {
	var err error
	if g.vcpu, err = ioctl(g.vm, kvmCreateVCPU, 0); err != nil {
		g.vcpu = -1
		return fmt.Errorf("create a vCPU: %w", err)
	}
	size, err := ioctl(kvm, kvmGetVCPUMmapSize, 0)
	if err != nil || size < runMinSize {
		return fmt.Errorf("size of the vCPU's shared page (%d): %w", size, err)
	}
	if g.shared, err = unix.Mmap(g.vcpu, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED); err != nil {
		return fmt.Errorf("map the vCPU's shared page: %w", err)
	}
	var sregs [312]byte // struct kvm_sregs begins with CS: base, limit, selector
	if err := ioctlPtr(g.vcpu, kvmGetSregs, unsafe.Pointer(&sregs)); err != nil {
		return fmt.Errorf("get segment registers: %w", err)
	}
	clear(sregs[0:8])
	clear(sregs[12:14])
	if err := ioctlPtr(g.vcpu, kvmSetSregs, unsafe.Pointer(&sregs)); err != nil {
		return fmt.Errorf("set segment registers: %w", err)
	}
	var regs [18]uint64 // struct kvm_regs: rax ... r15, rip, rflags
	regs[16], regs[17] = probeAddress, 2
	if err := ioctlPtr(g.vcpu, kvmSetRegs, unsafe.Pointer(&regs)); err != nil {
		return fmt.Errorf("set registers: %w", err)
	}
	return nil
}

// run enters the guest and returns when it wrote the right count to its port.
func (g *probeGuest) run() error {
	for {
		_, err := ioctl(g.vcpu, kvmRun, 0)
		if err == nil {
			break
		}
		if !errors.Is(err, unix.EINTR) || g.stopping.Load() {
			return fmt.Errorf("run the probe guest: %w", err)
		}
	}
	le := binary.LittleEndian
	if reason := le.Uint32(g.shared[runExitReason:]); reason != kvmExitIO {
		return fmt.Errorf("the probe guest stopped with exit reason %d", reason)
	}
	offset := le.Uint64(g.shared[runIODataOffset:])
	if g.shared[runIOSize] != 4 || le.Uint16(g.shared[runIOPort:]) != probePort || offset > uint64(len(g.shared)-4) {
		return errors.New("the probe guest wrote to an unexpected port")
	}
	if count := le.Uint32(g.shared[offset:]); count != probeLoops {
		return fmt.Errorf("the probe guest counted %d, want %d", count, probeLoops)
	}
	return nil
}

// stop makes the vCPU leave, or not enter, the guest.
func (g *probeGuest) stop() {
	g.stopping.Store(true)
	const immediateExit = 1 << 8 // second byte, little endian
	atomic.OrUint32((*uint32)(unsafe.Pointer(&g.shared[runImmediateExit])), immediateExit)
}

func (g *probeGuest) close() {
	if g.shared != nil {
		_ = unix.Munmap(g.shared)
	}
	if g.vcpu >= 0 {
		_ = unix.Close(g.vcpu)
	}
	if g.vm >= 0 {
		_ = unix.Close(g.vm)
	}
	if g.memory != nil {
		_ = unix.Munmap(g.memory)
	}
}

func ioctl(fd int, request, argument uintptr) (int, error) {
	for {
		value, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), request, argument)
		if errno == unix.EINTR && request != kvmRun {
			continue
		}
		if errno != 0 {
			return 0, errno
		}
		return int(value), nil
	}
}

func ioctlPtr(fd int, request uintptr, argument unsafe.Pointer) error {
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), request, uintptr(argument))
	if errno != 0 {
		return errno
	}
	return nil
}
