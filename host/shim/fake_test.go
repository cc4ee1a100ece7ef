package shim

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"kata/api/agentpb"
	"kata/host/shim/bootstrap"
	"kata/host/shim/spec"
	"kata/host/shim/task"
	"kata/host/stdio"
	"kata/test/leaktest"
)

// asShim in the environment makes the test program a shim whose sandbox is a
// fake; it names a folder where Cleanup leaves a trace.
const asShim = "KATA_TEST_SHIM"

// TestMain lets the tests run the program itself as containerd would: started,
// forked, killed.
func TestMain(m *testing.M) {
	dir := os.Getenv(asShim)
	if dir == "" {
		os.Exit(leaktest.Run(m, "kata/host/shim."))
	}
	p := New(bootstrap.Build{Version: "1.2.3", Commit: "abc"})
	p.Boot = bootFake
	p.Cleanup = func(*slog.Logger) bootstrap.Cleanup {
		return func(_ context.Context, id, bundle string) error {
			f, err := os.OpenFile(filepath.Join(dir, "cleanup"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(f, id, filepath.Base(bundle))
			return errors.Join(err, f.Close())
		}
	}
	if err := p.Run(context.Background(), os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// bootFake boots a sandbox of nothing. The first word of a process's command
// says what it does: "exit N" ends at once, "sleep" when it is killed; a boot
// for "no-boot" fails, one for "slow-boot" takes until it is aborted.
func bootFake(env BootEnv) Boot {
	return func(ctx context.Context, r task.BootRequest) (task.Sandbox, error) {
		env.Log.Info("boot", "sandbox", r.ID, "config", r.ConfigPath)
		oci, err := spec.Read(r.Bundle)
		if err != nil {
			return nil, err
		}
		switch oci.Process.Args[0] {
		case "no-boot":
			return nil, errors.New("boot the sandbox: it is a fake")
		case "slow-boot":
			<-ctx.Done()
			return nil, context.Cause(ctx)
		}
		return &fakeSandbox{done: make(chan struct{})}, nil
	}
}

type fakeSandbox struct {
	once sync.Once
	done chan struct{}
	mu   sync.Mutex
	all  []*fakeProcess
}

func (s *fakeSandbox) CreateContainer(_ context.Context, r task.ContainerRequest) (task.Container, error) {
	return &fakeContainer{s, s.process(r.Spec.Process)}, nil
}

func (s *fakeSandbox) process(spec *specs.Process) *fakeProcess {
	p := &fakeProcess{args: spec.Args, done: make(chan struct{})}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all = append(s.all, p)
	return p
}

func (s *fakeSandbox) Done() <-chan struct{} { return s.done }
func (s *fakeSandbox) Err() error            { return nil }

func (s *fakeSandbox) Stop(context.Context) error {
	s.once.Do(func() { close(s.done) })
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range s.all {
		p.end(137)
	}
	return nil
}

type fakeContainer struct {
	sandbox *fakeSandbox
	init    *fakeProcess
}

func (c *fakeContainer) Init() task.Process { return c.init }

func (c *fakeContainer) Exec(_ context.Context, _ string, spec *specs.Process, _ stdio.Config) (task.Process, error) {
	return c.sandbox.process(spec), nil
}

func (c *fakeContainer) Kill(ctx context.Context, sig uint32) error { return c.init.Signal(ctx, sig) }
func (c *fakeContainer) Pause(context.Context) error                { return nil }
func (c *fakeContainer) Resume(context.Context) error               { return nil }
func (c *fakeContainer) Stats(context.Context) (*agentpb.StatsContainerResponse, error) {
	return nil, nil
}
func (c *fakeContainer) Update(context.Context, *specs.LinuxResources) error { return nil }
func (c *fakeContainer) Delete(context.Context) error                        { return nil }

type fakeProcess struct {
	args []string
	once sync.Once
	done chan struct{}
	exit task.Exit
}

func (p *fakeProcess) end(status uint32) {
	p.once.Do(func() {
		p.exit = task.Exit{Status: status, At: time.Now()}
		close(p.done)
	})
}

// fakePID is the pid on the host of every process.
const fakePID = 4711

func (p *fakeProcess) PID() int { return fakePID }

func (p *fakeProcess) Start(context.Context) error {
	if p.args[0] == "exit" {
		n, err := strconv.Atoi(p.args[1])
		if err != nil {
			return err
		}
		p.end(uint32(n))
	}
	return nil
}

func (p *fakeProcess) Signal(_ context.Context, sig uint32) error {
	p.end(128 + sig)
	return nil
}

func (p *fakeProcess) Resize(context.Context, uint32, uint32) error { return nil }
func (p *fakeProcess) CloseStdin(context.Context) error             { return nil }
func (p *fakeProcess) Done() <-chan struct{}                        { return p.done }
func (p *fakeProcess) Exit() task.Exit                              { return p.exit }
func (p *fakeProcess) Copied() uint64                               { return 0 }
func (p *fakeProcess) Drained() <-chan struct{}                     { return p.done }
func (p *fakeProcess) Delete(context.Context) error                 { return nil }
