package sandbox

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"kata/host/guestvm"
	"kata/host/guestvm/guestvmtest"
	"kata/host/journal"
	"kata/host/pod"
	"kata/host/process"
	"kata/host/vmm"
)

var errInjected = errors.New("injected")

// limit is longer than anything here takes.
const limit = time.Minute

// fixture is a sandbox of fakes and where it keeps its state.
type fixture struct {
	*testing.T
	root  string // of states
	parts *guestvmtest.Parts
	agent Agent
	told  chan string // OOM events
	// spawner starts the processes that stand for containers, which are real.
	spawner *process.Spawner
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	root, err := os.MkdirTemp("", "sb") // short: sockets lie below it
	if err != nil {
		t.Fatal(err)
	}
	spawner := process.NewSpawner()
	t.Cleanup(func() { spawner.Close(); _ = os.RemoveAll(root) })
	return &fixture{
		spawner: spawner,
		T:       t, root: root, parts: guestvmtest.NewParts(), told: make(chan string, 8),
		agent: Agent{BootTimeout: limit, CreateTimeout: limit},
	}
}

func (f *fixture) options() Options {
	return Options{
		ID: "pod", Namespace: "test", Bundle: "/bundle", StateRoot: f.root,
		Guest: guestvm.Config{Machine: vmm.Spec{VCPUs: 1, MemoryMiB: 128}, StopTimeout: limit}, Agent: f.agent,
		Pod: pod.Spec{Hostname: "web", DNS: pod.DNS{Servers: []string{"10.0.0.1"}}}, Parts: f.parts, Spawner: f.spawner,
		OOM: func(id string) { f.told <- id }, Log: slog.New(slog.DiscardHandler),
	}
}

// boot boots the sandbox, which is stopped at the end of the test.
func (f *fixture) boot() *Sandbox {
	f.Helper()
	s, err := New(f.Context(), f.options())
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() {
		f.parts.Faults.Clear()
		ctx, cancel := context.WithTimeout(context.Background(), limit)
		defer cancel()
		if err := s.Stop(ctx); err != nil {
			f.Errorf("stop: %v", err)
		}
		f.nothingIsLeft()
	})
	return s
}

// nothingIsLeft fails the test for anything that a sandbox has left.
func (f *fixture) nothingIsLeft() {
	f.Helper()
	entries, err := os.ReadDir(f.root)
	if err != nil {
		f.Error(err)
	}
	for _, e := range entries {
		_, records, err := journal.Read(filepath.Join(f.root, e.Name()))
		f.Errorf("%s is left, with %v, %v", e.Name(), records, err)
	}
	p := f.parts
	if p.VMM != nil {
		select {
		case <-p.VMM.Done():
		default:
			f.Error("the machine runs")
		}
	}
	if p.FileServer != nil {
		select {
		case <-p.FileServer.Done():
		default:
			f.Error("the file server runs")
		}
	}
	if p.Tree != nil {
		if shared := p.Tree.Shared(); len(shared) != 0 {
			f.Errorf("shared are %q", shared)
		}
	}
}

// container describes a container with a root file system and a volume.
func (f *fixture) container(id string, args ...string) ContainerOptions {
	f.Helper()
	bundle := f.TempDir()
	for _, dir := range []string{"rootfs", "volume"} {
		if err := os.Mkdir(filepath.Join(bundle, dir), 0o755); err != nil {
			f.Fatal(err)
		}
	}
	return ContainerOptions{ID: id, Bundle: bundle, Spec: &specs.Spec{
		Root: &specs.Root{Path: "rootfs"}, Process: &specs.Process{Args: args, Cwd: "/"},
		Mounts: []specs.Mount{{Destination: "/data", Type: "bind", Source: filepath.Join(bundle, "volume"), Options: []string{"rbind"}}},
	}}
}

func (f *fixture) create(s *Sandbox, id string, args ...string) *Container {
	f.Helper()
	c, err := s.CreateContainer(f.Context(), f.container(id, args...))
	if err != nil {
		f.Fatal(err)
	}
	return c
}

// awaitExit returns a process's exit status.
func awaitExit(t *testing.T, p *Process) uint32 {
	t.Helper()
	select {
	case <-p.Done():
		return p.Exit().Status
	case <-time.After(limit):
		t.Fatalf("%s did not end", p)
		return 0
	}
}

func awaitDone(t *testing.T, s *Sandbox) {
	t.Helper()
	select {
	case <-s.Done():
	case <-time.After(limit):
		t.Fatal("the sandbox did not end")
	}
}

// records returns what the sandbox's journal lists.
func (f *fixture) records(s *Sandbox) []journal.Record {
	f.Helper()
	_, records, err := journal.Read(s.Dir())
	if err != nil {
		f.Error(err)
	}
	return records
}

// sleeper starts a process that stands for a VMM; the test reaps it.
func sleeper(t *testing.T) process.ID {
	t.Helper()
	cmd := exec.Command("sleep", "600")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	id, err := process.Identify(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	return id
}
