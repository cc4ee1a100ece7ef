package shim

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/containerd/api/events"
	eventsapi "github.com/containerd/containerd/api/services/ttrpc/events/v1"
	"github.com/containerd/ttrpc"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"

	"kata/test/pace"
)

// limit bounds what a test waits for.
const limit = 20 * time.Second

// daemon is what a shim sees of containerd: a state folder with bundles, and a
// service that takes events.
type daemon struct {
	t     *testing.T
	dir   string // short, because sockets are below it
	mu    sync.Mutex
	taken []string
	came  chan struct{}
}

func newDaemon(t *testing.T) *daemon {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("a shim needs root: it makes a mount namespace")
	}
	dir, err := os.MkdirTemp("/tmp", "ks")
	if err != nil {
		t.Fatal(err)
	}
	d := &daemon{t: t, dir: dir, came: make(chan struct{}, 100)}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	server, err := ttrpc.NewServer()
	if err != nil {
		t.Fatal(err)
	}
	eventsapi.RegisterTTRPCEventsService(server, d)
	l, err := net.Listen("unix", d.eventSocket())
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { defer close(done); _ = server.Serve(context.Background(), l) }()
	t.Cleanup(func() { _ = server.Close(); <-done })
	return d
}

func (d *daemon) eventSocket() string { return filepath.Join(d.dir, "c.sock.ttrpc") }

func (d *daemon) Forward(_ context.Context, r *eventsapi.ForwardRequest) (*emptypb.Empty, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	text := r.Envelope.Namespace + " " + r.Envelope.Topic
	if exit := new(events.TaskExit); r.Envelope.Topic == "/tasks/exit" && proto.Unmarshal(r.Envelope.Event.Value, exit) == nil {
		text += fmt.Sprint(" ", exit.ExitStatus)
	}
	d.taken = append(d.taken, text)
	d.came <- struct{}{}
	return &emptypb.Empty{}, nil
}

func (d *daemon) wantEvents(want ...string) {
	d.t.Helper()
	for range want {
		select {
		case <-d.came:
		case <-time.After(pace.Of(limit)):
			d.t.Fatalf("events %q, want %q", d.taken, want)
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if !slices.Equal(d.taken, want) {
		d.t.Errorf("events %q, want %q", d.taken, want)
	}
}

// bundle makes the bundle of a container that runs the command.
func (d *daemon) bundle(id string, command []string, annotations ...string) string {
	d.t.Helper()
	dir := filepath.Join(d.dir, "io.containerd.runtime.v2.task", "ns", id)
	if err := os.MkdirAll(filepath.Join(dir, "rootfs"), 0o711); err != nil {
		d.t.Fatal(err)
	}
	var list []string
	for i := 0; i < len(annotations); i += 2 {
		list = append(list, fmt.Sprintf("%q:%q", annotations[i], annotations[i+1]))
	}
	for i, word := range command {
		command[i] = strconv.Quote(word)
	}
	spec := fmt.Sprintf(`{"process":{"args":[%s]},"root":{"path":"rootfs"},"annotations":{%s}}`, strings.Join(command, ","), strings.Join(list, ","))
	if err := os.WriteFile(filepath.Join(dir, "config.json"), []byte(spec), 0o600); err != nil {
		d.t.Fatal(err)
	}
	return dir
}

// call runs the shim as containerd does.
func (d *daemon) call(bundle string, stdin []byte, args ...string) (stdout []byte, err error) {
	d.t.Helper()
	id := filepath.Base(bundle)
	args = append([]string{"-namespace", "ns", "-address", d.dir + "/c.sock", "-publish-binary", "/usr/bin/containerd", "-id", id}, args...)
	cmd := exec.CommandContext(d.t.Context(), "/proc/self/exe", args...)
	cmd.Args[0] = "containerd-shim-kata-v2"
	cmd.Dir = bundle
	// The race detector holds every exit up for a second, for other threads'
	// reports; each call here is a process.
	cmd.Env = append(os.Environ(), asShim+"="+d.dir, "TTRPC_ADDRESS="+d.eventSocket(), "GORACE=atexit_sleep_ms=0")
	cmd.Stdin = bytes.NewReader(stdin)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return out.Bytes(), fmt.Errorf("%w: %s", err, strings.TrimSpace(errs.String()))
	}
	if errs.Len() > 0 {
		d.t.Errorf("shim %v wrote to stderr: %s", args, &errs)
	}
	return out.Bytes(), nil
}

// shim is a server that "start" has left behind.
type shim struct {
	d       *daemon
	bundle  string
	address string
	pid     int
	fd      int // pidfd
}

func (d *daemon) start(bundle string, stdin []byte, args ...string) *shim {
	d.t.Helper()
	out, err := d.call(bundle, stdin, append(args, "start")...)
	if err != nil {
		d.t.Fatal(err)
	}
	s := &shim{d: d, bundle: bundle, address: string(out)}
	s.pid, err = strconv.Atoi(readFile(d.t, bundle, "shim.pid"))
	if err != nil {
		d.t.Fatal(err)
	}
	if s.fd, err = unix.PidfdOpen(s.pid, 0); err != nil {
		d.t.Fatal(err)
	}
	d.t.Cleanup(func() {
		_ = unix.PidfdSendSignal(s.fd, unix.SIGKILL, nil, 0)
		_ = unix.Close(s.fd)
	})
	return s
}

func (s *shim) path() string { return strings.TrimPrefix(s.address, "unix://") }

func (s *shim) dial() *ttrpc.Client {
	s.d.t.Helper()
	conn, err := net.Dial("unix", s.path())
	if err != nil {
		s.d.t.Fatal(err)
	}
	client := ttrpc.NewClient(conn)
	s.d.t.Cleanup(func() { _ = client.Close() })
	return client
}

func (s *shim) kill(sig syscall.Signal) {
	s.d.t.Helper()
	if err := unix.PidfdSendSignal(s.fd, sig, nil, 0); err != nil {
		s.d.t.Fatal(err)
	}
}

// awaitEnd waits until the server is gone.
func (s *shim) awaitEnd() {
	s.d.t.Helper()
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(s.fd), Events: unix.POLLIN}}, int(limit.Milliseconds()))
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if n != 1 {
			s.d.t.Fatalf("the shim (pid %d) does not end", s.pid)
		}
		return
	}
}

func readFile(t *testing.T, elements ...string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(elements...))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func exists(elements ...string) bool {
	_, err := os.Lstat(filepath.Join(elements...))
	return err == nil
}

// wantNothing checks that no socket, no process and no file of ours is left.
func (d *daemon) wantNothing(bundle string) {
	d.t.Helper()
	entries, err := os.ReadDir(filepath.Join(d.dir, "s"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		d.t.Fatal(err)
	}
	for _, e := range entries {
		d.t.Errorf("socket left: %s", e.Name())
	}
	for _, name := range []string{"address", "shim.pid", ".address", ".shim.pid"} {
		if exists(bundle, name) {
			d.t.Errorf("file left: %s", name)
		}
	}
	if pids := serversOf(d.t, d.dir); len(pids) > 0 {
		d.t.Errorf("servers left: %v", pids)
	}
}

// serversOf lists the processes that were started with the address below dir.
func serversOf(t *testing.T, dir string) (pids []string) {
	t.Helper()
	lines, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range lines {
		if b, err := os.ReadFile(l); err == nil && bytes.Contains(b, []byte("\x00"+dir+"/c.sock\x00")) {
			pids = append(pids, filepath.Base(filepath.Dir(l)))
		}
	}
	return pids
}
