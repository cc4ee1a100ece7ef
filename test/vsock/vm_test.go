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
	"sync"
	"testing"
	"time"

	"kata/api"
	"kata/host/vsock"
	"kata/test/pace"
)

const (
	bootLimit = 60 * time.Second
	guestCID  = api.GuestCID

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
	qemu *exec.Cmd
	run  chan error // what Device.Run returned

	console lockedBuffer
	exited  chan struct{}
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// boot starts a machine and waits until the guest has reported. It ends with
// the test.
func boot(tb testing.TB, extra ...string) *machine {
	tb.Helper()
	dir := tb.TempDir()
	m := start(tb, dir, extra...)
	l, err := m.dev.Listen(portReady)
	if err != nil {
		tb.Fatal(err)
	}
	defer l.Close()
	accepted := make(chan error, 1)
	go func() {
		c, err := l.Accept()
		if err == nil {
			c.Close()
		}
		accepted <- err
	}()
	select {
	case err := <-accepted:
		if err != nil {
			tb.Fatalf("guest did not report: %v\n%s", err, m.console.String())
		}
	case <-time.After(pace.Of(bootLimit)):
		tb.Fatalf("guest did not report in %v\n%s", bootLimit, m.console.String())
	}
	return m
}

// start starts a machine. It ends with the test.
func start(tb testing.TB, dir string, extra ...string) *machine {
	tb.Helper()
	socket := filepath.Join(dir, "vsock.sock")
	dev, err := vsock.New(vsock.Config{Socket: socket, GuestCID: guestCID, Log: logger(tb)})
	if err != nil {
		tb.Fatal(err)
	}
	m := &machine{dev: dev, run: make(chan error, 1), exited: make(chan struct{})}
	go func() { m.run <- dev.Run(context.Background()) }()

	args := []string{
		"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
		"-machine", "q35,accel=tcg,sata=off,smbus=off,vmport=off,usb=off,memory-backend=ram",
		"-m", "256", "-object", "memory-backend-memfd,id=ram,size=256M,share=on",
		"-kernel", kernel(tb), "-initrd", initrd(tb, dir),
		"-append", "console=ttyS0 quiet panic=-1 no_timer_check noreplace-smp reboot=k",
		"-serial", "stdio",
		"-chardev", "socket,id=vsock,path=" + socket,
		"-device", "vhost-user-vsock-pci,chardev=vsock",
	}
	m.qemu = exec.Command("qemu-system-x86_64", append(args, extra...)...)
	m.qemu.Stdout, m.qemu.Stderr = &m.console, &m.console
	if err := m.qemu.Start(); err != nil {
		tb.Fatal(err)
	}
	go func() {
		_ = m.qemu.Wait()
		close(m.exited)
	}()
	tb.Cleanup(func() {
		_ = m.qemu.Process.Kill()
		<-m.exited
		if err := dev.Close(); err != nil {
			tb.Errorf("close device: %v", err)
		}
		if tb.Failed() {
			tb.Logf("console:\n%s", m.console.String())
		}
	})
	return m
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
	case <-m.exited:
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
