// Package vm boots a throw-away VM that runs one program as root and reports
// its output and exit status. It is for tests of guest code, which need a
// kernel of their own; it shares nothing with the product's VMM drivers, so
// that a fault there cannot hide in the tests of the guest.
package vm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"kata/test/vmtest/wire"
)

// Config is a VM to be run.
type Config struct {
	QEMU      string // program; "" is qemu-system-x86_64 from PATH
	Accel     string // "tcg" or "kvm"
	Kernel    string // PVH vmlinux or bzImage
	Initrd    string
	MemoryMiB int
	CPUs      int
	Params    string    // more kernel parameters
	Output    io.Writer // what the program writes to stdout and stderr
}

// Error is a VM that did not get to an exit status.
type Error struct {
	Err     error
	Console string // the last lines of the serial console
	QEMU    string // the last lines QEMU wrote to stderr
}

func (e *Error) Error() string {
	s := e.Err.Error()
	if e.QEMU != "" {
		s += "\nQEMU wrote:\n" + e.QEMU
	}
	if e.Console != "" {
		s += "\nThe console ended with:\n" + e.Console
	}
	return s
}

func (e *Error) Unwrap() error { return e.Err }

// Run boots the VM, waits for the program to end and returns its exit status,
// which is 128 + signal for one that was killed. The VM is gone when Run
// returns, also when ctx ends before. Any error is an *Error.
func Run(ctx context.Context, c Config) (int, error) {
	// The VM dies with the thread that started it, in case we are killed.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()

	var consoleTail, stderrTail tail
	fail := func(err error) (int, error) {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return 0, &Error{Err: err, Console: consoleTail.String(), QEMU: stderrTail.String()}
	}
	port, portPeer, err := socketPair()
	if err != nil {
		return fail(err)
	}
	defer port.Close()
	console, consolePeer, err := socketPair()
	if err != nil {
		portPeer.Close()
		return fail(err)
	}
	defer console.Close()

	cmd := exec.Command(program(c), arguments(c)...)
	cmd.Stderr = &stderrTail
	cmd.ExtraFiles = []*os.File{portPeer, consolePeer} // 3 and 4
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: unix.SIGKILL}
	err = cmd.Start()
	portPeer.Close()
	consolePeer.Close()
	if err != nil {
		return fail(fmt.Errorf("start the VM: %w", err))
	}
	stopKill := context.AfterFunc(ctx, func() { cmd.Process.Kill() })
	defer stopKill()

	var copying sync.WaitGroup
	copying.Go(func() { io.Copy(&consoleTail, console) })
	status, readErr := wire.Read(port, c.Output)

	cmd.Process.Kill() // it has said all there is, or is broken
	waitErr := cmd.Wait()
	copying.Wait()
	if readErr != nil {
		var exit *exec.ExitError
		if errors.Is(readErr, wire.ErrTruncated) && errors.As(waitErr, &exit) && exit.Exited() {
			readErr = fmt.Errorf("%w (QEMU: %v)", readErr, waitErr)
		}
		return fail(readErr)
	}
	return status, nil
}

func program(c Config) string {
	if c.QEMU != "" {
		return c.QEMU
	}
	return "qemu-system-x86_64"
}

// arguments builds QEMU's command line; descriptors 3 and 4 are the port and
// the console.
func arguments(c Config) []string {
	params := "console=ttyS0 quiet panic=-1 transparent_hugepage=madvise"
	if c.Params != "" {
		params += " " + c.Params
	}
	cpu, accel := "host", c.Accel
	if c.Accel == "tcg" {
		// One thread for all vCPUs: with one each, kernels that patch their own
		// code crash now and then (an int3 that has gone again).
		cpu, accel = "max", "tcg,thread=single"
	}
	return []string{
		"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
		"-machine", "q35,sata=off,smbus=off,vmport=off,usb=off",
		"-accel", accel, "-cpu", cpu,
		"-m", strconv.Itoa(c.MemoryMiB), "-smp", strconv.Itoa(c.CPUs),
		"-kernel", c.Kernel, "-initrd", c.Initrd, "-append", params,
		"-chardev", "socket,id=console,fd=4", "-serial", "chardev:console",
		"-device", "virtio-serial-pci",
		"-chardev", "socket,id=port,fd=3", "-device", "virtserialport,chardev=port,name=" + wire.Port,
		"-device", "virtio-rng-pci",
	}
}

// socketPair returns a connected pair: one end for us, one to be inherited.
func socketPair() (ours, peer *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("socket pair: %w", err)
	}
	return os.NewFile(uintptr(fds[0]), "vm"), os.NewFile(uintptr(fds[1]), "vm-peer"), nil
}
