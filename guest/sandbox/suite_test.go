package sandbox

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"kata/api/agentpb"
	"kata/api/ocipb"
	"kata/guest/agent/reaper"
	"kata/guest/container"
	"kata/guest/container/ocispec"
	"kata/guest/container/stream"
	"kata/guest/machine/device"
	"kata/guest/storage"
	"kata/test/pace"
)

// The suites below are what a sandbox relies on of its parts. The fakes and the
// real parts pass the same.

// parts are the parts of a sandbox, and a spec whose process sleeps.
type parts struct {
	Config
	spec func(id string) *ocispec.Container
	root string // of the mount points
}

func eachParts(t *testing.T, suite func(*testing.T, parts)) {
	t.Run("fake", func(t *testing.T) { suite(t, parts{newFake(t).config(), fakeSpec, "/"}) })
	t.Run("real", func(t *testing.T) { suite(t, realParts(t)) })
}

// theReaper collects the children of the whole test program: there can be only
// one.
var theReaper = sync.OnceValue(func() *reaper.Reaper {
	r := reaper.New()
	go func() { _ = r.Run(context.Background()) }()
	return r
})

// realParts need root and cgroup v2, as the agent does.
func realParts(t *testing.T) parts {
	t.Helper()
	p := parts{root: filepath.Join(t.TempDir(), "mounts")}
	if err := os.Mkdir(p.root, 0o755); err != nil {
		t.Fatal(err)
	}
	cgroups := filepath.Join(cgroup2(t), "katatest"+filepath.Base(filepath.Dir(p.root))+filepath.Base(filepath.Dir(filepath.Dir(p.root))))
	if err := os.Mkdir(cgroups, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.Remove(cgroups); err != nil {
			t.Error(err)
		}
	})
	ready := make(chan struct{})
	close(ready)
	p.Config = Config{Buffers: stream.NewBuffers(func() {}), Ready: ready, ResolvConf: filepath.Join(t.TempDir(), "resolv.conf")}
	devices := device.NewFinder(0)
	p.Real(container.NewRuntime(container.Config{Reaper: theReaper(), CgroupRoot: cgroups}), storage.NewManager(p.root, devices),
		devices, stream.NewHub(stream.HubConfig{}))
	rootfs := rootfs(t)
	p.spec = func(id string) *ocispec.Container {
		spec, err := ocispec.Parse(id, &ocipb.Spec{
			Version: "1.1.0", Root: &ocipb.Root{Path: rootfs},
			Process: &ocipb.Process{Args: []string{"/busybox", "sleep", "100000"}, Cwd: "/", User: &ocipb.User{}},
			Mounts:  []*ocipb.Mount{{Destination: "/proc", Type: "proc", Source: "proc"}, {Destination: "/dev", Type: "tmpfs", Source: "tmpfs"}},
			Linux:   &ocipb.Linux{Namespaces: []*ocipb.LinuxNamespace{{Type: "pid"}, {Type: "mount"}}},
		}, ocispec.Options{})
		if err != nil {
			t.Fatal(err)
		}
		return spec
	}
	return p
}

func cgroup2(t *testing.T) string {
	t.Helper()
	table, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(table)) {
		mount, fs, _ := strings.Cut(line, " - ")
		if strings.HasPrefix(fs, "cgroup2 ") {
			return strings.Fields(mount)[4]
		}
	}
	t.Fatal("this machine has no cgroup2 mount")
	return ""
}

// rootfs is a root file system with busybox, which is linked statically.
func rootfs(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "rootfs")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"/bin/busybox", "/usr/bin/busybox"} {
		text, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		if err := os.WriteFile(filepath.Join(dir, "busybox"), text, 0o755); err != nil {
			t.Fatal(err)
		}
		return dir
	}
	t.Fatal("this machine has no busybox")
	return ""
}

func ended(t *testing.T, p Task) {
	t.Helper()
	select {
	case <-p.Done():
	case <-time.After(pace.Of(30 * time.Second)):
		t.Fatal("the process does not end")
	}
}

func TestRuntimes(t *testing.T) {
	eachParts(t, func(t *testing.T, p parts) {
		make := func(id string, o RuntimeOptions) Instance {
			t.Helper()
			i, err := p.Runtime.Create(t.Context(), p.spec(id), container.Stdio{}, o)
			if err != nil {
				t.Fatal(err)
			}
			return i
		}
		destroy := func(i Instance) {
			t.Helper()
			for range 2 { // the second time there is nothing to do
				if err := i.Destroy(t.Context()); err != nil {
					t.Error(err)
				}
			}
			ended(t, i.Init())
		}
		exec := func(i Instance) (Task, error) {
			return i.Exec(t.Context(), "e", &p.spec("e").Plan.Process, container.Stdio{})
		}

		t.Run("one that was not started", func(t *testing.T) {
			i := make("created", RuntimeOptions{})
			if _, err := exec(i); !errors.Is(err, container.ErrNotRunning) {
				t.Errorf("exec: %v", err)
			}
			if err := i.Pause(t.Context()); !errors.Is(err, container.ErrNotRunning) {
				t.Errorf("pause: %v", err)
			}
			destroy(i)
		})
		t.Run("one that runs", func(t *testing.T) {
			i := make("running", RuntimeOptions{})
			if err := i.Start(t.Context()); err != nil {
				t.Fatal(err)
			}
			e, err := exec(i)
			if err != nil {
				t.Fatal(err)
			}
			if stats, err := i.Stats(); err != nil || stats.PidsStats == nil {
				t.Errorf("statistics %v, %v", stats, err)
			}
			if pids, err := i.Pids(); err != nil || len(pids) != 2 {
				t.Errorf("pids %v, %v", pids, err)
			}
			if err := i.Pause(t.Context()); err != nil {
				t.Error(err)
			}
			if _, err := exec(i); !errors.Is(err, container.ErrPaused) {
				t.Errorf("exec when paused: %v", err)
			}
			if err := i.Resume(t.Context()); err != nil {
				t.Error(err)
			}
			if err := e.Signal(unix.SIGKILL); err != nil {
				t.Error(err)
			}
			ended(t, e)
			if status := e.Exit().Status; status != 137 {
				t.Errorf("status %d", status)
			}
			if err := e.Signal(unix.SIGTERM); !errors.Is(err, container.ErrNotRunning) {
				t.Errorf("a signal after the exit: %v", err)
			}
			if err := i.SignalAll(unix.SIGKILL); err != nil {
				t.Error(err)
			}
			ended(t, i.Init())
			if _, err := exec(i); !errors.Is(err, container.ErrNotRunning) {
				t.Errorf("exec after the end: %v", err)
			}
			destroy(i)
		})
		t.Run("shared pids", func(t *testing.T) {
			owner := make("owner", RuntimeOptions{})
			guest := make("guest", RuntimeOptions{JoinPID: owner})
			destroy(guest)
			select {
			case <-owner.Init().Done():
				t.Error("the owner has ended too")
			default:
			}
			destroy(owner)
		})
		t.Run("one that is gone hits nothing", func(t *testing.T) {
			i := make("gone", RuntimeOptions{})
			destroy(i)
			other := make("other", RuntimeOptions{})
			if err := i.SignalAll(unix.SIGKILL); !errors.Is(err, os.ErrClosed) {
				t.Errorf("signal: %v", err)
			}
			if _, err := i.Stats(); !errors.Is(err, os.ErrClosed) {
				t.Errorf("statistics: %v", err)
			}
			if err := i.Update(&ocipb.LinuxResources{Pids: &ocipb.LinuxPids{Limit: 5}}); !errors.Is(err, os.ErrClosed) {
				t.Errorf("update: %v", err)
			}
			destroy(other)
		})
	})
}

func TestStorages(t *testing.T) {
	eachParts(t, func(t *testing.T, p parts) {
		one := &agentpb.Storage{Driver: "ephemeral", Fstype: "tmpfs", Source: "tmpfs", MountPoint: p.root + "/one"}
		if _, err := p.Storages.Mount(t.Context(), []*agentpb.Storage{one, {Driver: "tape"}}); err == nil || !strings.Contains(err.Error(), `"tape"`) {
			t.Errorf("error %v", err)
		}
		for _, end := range []func(Mounts) error{Mounts.Unmount, Mounts.Release} {
			set, err := p.Storages.Mount(t.Context(), []*agentpb.Storage{one})
			if err != nil {
				t.Fatal(err)
			}
			for range 2 {
				if err := end(set); err != nil {
					t.Error(err)
				}
			}
		}
		p.Storages.LetGo()
		for range 2 {
			if err := p.Storages.Close(); err != nil {
				t.Error(err)
			}
		}
	})
}

func TestDevices(t *testing.T) {
	eachParts(t, func(t *testing.T, p parts) {
		if _, err := p.Devices.Assign(t.Context(), []*agentpb.Device{{Type: "floppy"}}, p.spec("c")); err == nil || !strings.Contains(err.Error(), `"floppy"`) {
			t.Errorf("error %v", err)
		}
		set, err := p.Devices.Assign(t.Context(), nil, p.spec("c"))
		if err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if err := set.Release(); err != nil {
				t.Error(err)
			}
		}
	})
}

func TestStreams(t *testing.T) {
	eachParts(t, func(t *testing.T, p parts) {
		set, err := p.Streams.Open(t.Context(), stream.Config{Buffers: p.Buffers})
		if err != nil {
			t.Fatal(err)
		}
		if child := set.Child(); child.Stdin == nil || child.Stdout == nil || child.Stderr == nil {
			t.Error("a stream is missing")
		}
		set.Close()
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := p.Streams.Open(ctx, stream.Config{Ports: stream.Ports{Stdout: 4711}, Buffers: p.Buffers}); !errors.Is(err, context.Canceled) {
			t.Errorf("a connection that nobody opens: %v", err)
		}
	})
}
