package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"kata/image/cache"
)

// boot runs the machine until its tests have ended and returns their exit status.
// The machine is gone when boot returns.
func boot(ctx context.Context, o options, image *cache.Entry, product string, out io.Writer) (int, error) {
	// The machine dies with the thread that started it, in case we are killed.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()

	params := "console=ttyS0 panic=-1 kvm_amd.nested=0"
	if !o.console {
		params += " quiet loglevel=1"
	}
	cmd := exec.Command("qemu-system-x86_64",
		"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
		"-machine", "q35,sata=off,smbus=off,usb=off",
		"-accel", "tcg,thread=multi", "-cpu", "max", "-smp", strconv.Itoa(o.cpus), "-m", strconv.Itoa(o.memoryMiB),
		"-kernel", image.Path(kernelFile), "-initrd", image.Path(initrdFile), "-append", params,
		"-drive", "if=virtio,format=raw,readonly=on,file="+image.Path(rootDisk),
		"-drive", "if=virtio,format=raw,readonly=on,file="+product,
		"-device", "virtio-rng-pci", "-serial", "stdio", "-monitor", "none")
	console, err := cmd.StdoutPipe()
	if err != nil {
		return 0, err
	}
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: unix.SIGKILL}
	if err := cmd.Start(); err != nil {
		return 0, fmt.Errorf("start the machine: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { _ = cmd.Process.Kill() })
	defer stop()
	status, err := readStatus(console, out)
	_ = cmd.Process.Kill() // it has said all there is
	_ = cmd.Wait()
	if ctx.Err() != nil {
		return 0, context.Cause(ctx)
	}
	return status, err
}

// readStatus copies the console to out, without carriage returns, until the line
// with the exit status.
func readStatus(console io.Reader, out io.Writer) (int, error) {
	lines := bufio.NewReader(console)
	for {
		line, err := lines.ReadString('\n')
		line = strings.TrimRight(line, "\r\n")
		if number, ok := strings.CutPrefix(line, exitLine); ok {
			return strconv.Atoi(number)
		}
		if line != "" || err == nil {
			fmt.Fprintln(out, line)
		}
		if errors.Is(err, io.EOF) {
			return 0, errors.New("the machine ended before its tests did")
		}
		if err != nil {
			return 0, fmt.Errorf("read the machine's console: %w", err)
		}
	}
}
