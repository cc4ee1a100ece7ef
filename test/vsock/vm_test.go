//go:build vm

package vsock

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"kata/api"
	"kata/host/guestvm"
	"kata/host/undo"
	"kata/host/vmm"
	"kata/host/vsock"
	"kata/test/pace"
	"kata/test/rawvm"
)

const (
	bootLimit = 60 * time.Second

	portEcho    = 100
	portSink    = 101
	portSource  = 102
	portHash    = 103
	portDeaf    = 104
	portConnect = 105
	portReset   = 106
	portOff     = 107
	portReady   = api.PortReady
)

// machine is a booted guest.
type machine struct {
	dev  *vsock.Device
	qemu *rawvm.Machine
	run  chan error // what Device.Run returned
}

// boot starts a machine and waits until the guest has reported. It ends with
// the test.
func boot(tb testing.TB, extra ...string) *machine {
	tb.Helper()
	dir, log := tb.TempDir(), logger(tb)
	parts := &rawvm.Parts{Host: &guestvm.Host{Log: log}, Args: func(spec vmm.Spec) []string {
		return append([]string{
			"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
			"-machine", "q35,accel=tcg,sata=off,smbus=off,vmport=off,usb=off,memory-backend=ram",
			"-m", "256", "-object", "memory-backend-memfd,id=ram,size=256M,share=on",
			"-kernel", kernel(tb), "-initrd", initrd(tb, dir),
			"-append", "console=ttyS0 quiet panic=-1 no_timer_check noreplace-smp reboot=k",
			"-serial", "stdio",
			"-chardev", "socket,id=vsock,path=" + spec.Vsock.Socket,
			"-device", "vhost-user-vsock-pci,chardev=vsock",
		}, extra...)
	}}
	stack := undo.New(new(undo.Memory))
	tb.Cleanup(func() {
		if err := stack.Run(context.Background()); err != nil {
			tb.Errorf("end the machine: %v", err)
		}
		if tb.Failed() && parts.QEMU != nil {
			tb.Logf("console:\n%s", parts.QEMU.ConsoleTail())
		}
	})
	ctx, cancel := context.WithTimeout(tb.Context(), pace.Of(bootLimit))
	defer cancel()
	_, err := guestvm.Boot(ctx, guestvm.Config{Machine: vmm.Spec{Dir: dir}, StopTimeout: bootLimit, Log: log}, parts, stack)
	if err != nil {
		tb.Fatal(err)
	}
	return &machine{dev: parts.Device, qemu: parts.QEMU, run: parts.Ran}
}

// dial connects to a port of the guest.
func (m *machine) dial(tb testing.TB, port uint32) *vsock.Conn {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	c, err := m.dev.Dial(ctx, port)
	if err != nil {
		tb.Fatal(err)
	}
	return c.(*vsock.Conn)
}

func logger(tb testing.TB) *slog.Logger {
	if testing.Verbose() {
		return slog.New(slog.NewTextHandler(tb.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	return slog.New(slog.DiscardHandler)
}

// kernel is the guest's kernel.
func kernel(tb testing.TB) string {
	tb.Helper()
	if k := os.Getenv("KATA_TEST_KERNEL"); k != "" {
		return k
	}
	k := filepath.Join("..", "..", "build", "guest", "vmlinux")
	if _, err := os.Stat(k); err != nil {
		tb.Fatalf("no guest kernel: run make guest, or name a PVH kernel by KATA_TEST_KERNEL: %v", err)
	}
	return k
}

// initrd builds the guest program and packs it.
func initrd(tb testing.TB, dir string) string {
	tb.Helper()
	bin := filepath.Join(dir, "guest")
	build := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", bin, "./guest")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		tb.Fatalf("build guest: %v\n%s", err, out)
	}
	exe, err := os.ReadFile(bin)
	if err != nil {
		tb.Fatal(err)
	}
	path := filepath.Join(dir, "initrd")
	if err := os.WriteFile(path, archive(exe), 0o600); err != nil {
		tb.Fatal(err)
	}
	return path
}

// archive is a cpio archive (newc) with /init and the console it writes to.
func archive(init []byte) []byte {
	var b bytes.Buffer
	entry := func(name string, mode, major, minor int, data []byte) {
		fmt.Fprintf(&b, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x",
			0, mode, 0, 0, 1, 0, len(data), 0, 0, major, minor, len(name)+1, 0)
		b.WriteString(name + "\x00")
		pad(&b)
		b.Write(data)
		pad(&b)
	}
	entry("dev", 0o040755, 0, 0, nil)
	entry("dev/console", 0o020600, 5, 1, nil)
	entry("init", 0o100755, 0, 0, init)
	entry("TRAILER!!!", 0, 0, 0, nil)
	return b.Bytes()
}

func pad(b *bytes.Buffer) {
	for b.Len()%4 != 0 {
		b.WriteByte(0)
	}
}

// finished waits for QEMU's end and Run's, and returns what Run did.
func (m *machine) finished(tb testing.TB) error {
	tb.Helper()
	select {
	case <-m.qemu.Done():
	case <-time.After(pace.Of(20 * time.Second)):
		tb.Fatal("QEMU does not end")
	}
	select {
	case err := <-m.run:
		return err
	case <-time.After(pace.Of(20 * time.Second)):
		tb.Fatal("Run does not return after the VMM's end")
	}
	return errors.New("unreachable")
}
