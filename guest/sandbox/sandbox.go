package sandbox

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"kata/api/agentpb"
	"kata/guest/agent/log"
	"kata/guest/container/hooks"
	"kata/guest/container/ocispec"
	"kata/guest/container/oom"
	"kata/guest/container/stream"
	"kata/lib/fmt"
)

// Config is what a sandbox works with. All of it is shared and outlives it.
type Config struct {
	// Real sets these four.
	Runtime  Runtime
	Storages Storages
	Devices  Devices
	Streams  Streams

	Buffers *stream.Buffers
	// OOM watches the containers; nil for none.
	OOM *oom.Watcher
	// PipeSize is the capacity of the pipes of processes in bytes, 0 for the
	// kernel's default.
	PipeSize int
	// Ready is closed when the machine is fit for containers; they wait for it.
	Ready <-chan struct{}
	// ResolvConf is the file that gets the pod's name servers.
	ResolvConf string
	// SetHostname names the machine; nil leaves its name alone.
	SetHostname func(name string) error
	Log         *log.Logger
}

// Sandbox is the pod. The zero value is not usable: see New.
type Sandbox struct {
	cfg Config
	// work are the removals, which go on in the background until background ends.
	work       sync.WaitGroup
	background context.Context
	end        context.CancelFunc

	mu         sync.Mutex
	state      state
	id         string
	storages   Mounts
	hooks      hooks.Set // of every container, after its own
	containers map[string]*Container
	pidns      *Container // whose pid namespace is the pod's, nil as long as none is
}

// state of a sandbox. It only ever grows, except that a failed creation goes
// back.
type state int

const (
	empty state = iota
	creating
	ready
	destroyed
)

// New returns a sandbox that has not been created yet.
func New(cfg Config) *Sandbox {
	s := &Sandbox{cfg: cfg, containers: make(map[string]*Container)}
	s.background, s.end = context.WithCancel(context.Background())
	return s
}

// awaitMachine waits until the machine is fit for containers.
func (cfg *Config) awaitMachine(ctx context.Context) error {
	select {
	case <-cfg.Ready:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for the machine: %w", context.Cause(ctx))
	}
}

// Options are what a sandbox is created with.
type Options struct {
	ID string
	// Prepare, unless nil, is called before anything else is done, once the machine
	// is ready: until then the agent deletes the network devices that the kernel has
	// made unasked, and a module may make some that are asked for.
	Prepare func() error
	// Hostname of the machine; empty leaves it alone.
	Hostname string
	// DNS are lines in the form of resolv.conf(5).
	DNS []string
	// Storages are mounted in this order and unmounted by Destroy.
	Storages []*agentpb.Storage
	// HookDir is a folder, perhaps in one of the storages, with hooks for every
	// container (hooks.Find); empty for none.
	HookDir string
}

// Create makes the sandbox, once. After a failure it can be tried again.
func (s *Sandbox) Create(ctx context.Context, o Options) (err error) {
	if err := s.enter(empty, creating); err != nil {
		return err
	}
	var storages Mounts
	var found hooks.Set
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.state = ready; err != nil {
			s.state = empty
			return
		}
		s.id, s.storages, s.hooks = o.ID, storages, found
	}()
	if o.Prepare != nil {
		if err := s.cfg.awaitMachine(ctx); err != nil {
			return err
		}
		if err := o.Prepare(); err != nil {
			return err
		}
	}
	if o.Hostname != "" && s.cfg.SetHostname != nil {
		if err := s.cfg.SetHostname(o.Hostname); err != nil {
			return fmt.Errorf("set hostname %q: %w", o.Hostname, err)
		}
	}
	if len(o.DNS) != 0 {
		if err := writeLines(s.cfg.ResolvConf, o.DNS); err != nil {
			return fmt.Errorf("write name servers: %w", err)
		}
	}
	if storages, err = s.cfg.Storages.Mount(ctx, o.Storages); err != nil {
		return err
	}
	if found, err = findHooks(o.HookDir); err != nil {
		return errors.Join(err, storages.Unmount())
	}
	return nil
}

func findHooks(dir string) (found hooks.Set, err error) {
	if dir == "" {
		return found, nil
	}
	if found, err = hooks.Find(dir); err != nil {
		return found, fmt.Errorf("guest_hook_path %q: %w: %w", dir, ErrInvalid, err)
	}
	return found, nil
}

// addHooks adds the hooks of every container to those of spec.
func (s *Sandbox) addHooks(spec *ocispec.Container) {
	s.mu.Lock()
	defer s.mu.Unlock()
	spec.Hooks = spec.Hooks.With(s.hooks)
}

func writeLines(path string, lines []string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, []byte(strings.Join(lines, "\n")+"\n"), 0o644)
}

// enter moves the sandbox from one state to another.
func (s *Sandbox) enter(from, to state) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.state == from:
		s.state = to
		return nil
	case s.state == destroyed:
		return fmt.Errorf("the sandbox has been destroyed: %w", ErrState)
	case s.state == creating:
		return fmt.Errorf("the sandbox is being created: %w", ErrState)
	}
	return fmt.Errorf("sandbox %q: %w", s.id, ErrExists)
}

// Destroy removes all containers, as Container.Remove does, and unmounts the
// sandbox's storages. Nothing can be created any more, even if it fails; a
// further call goes on with what is left.
func (s *Sandbox) Destroy(ctx context.Context) error {
	s.mu.Lock()
	if s.state == creating {
		s.mu.Unlock()
		return fmt.Errorf("the sandbox is being created: %w", ErrState)
	}
	s.state = destroyed
	all := make([]*Container, 0, len(s.containers))
	for _, c := range s.containers {
		all = append(all, c)
	}
	s.mu.Unlock()

	errs := make([]error, len(all))
	var removing sync.WaitGroup
	for i, c := range all {
		removing.Go(func() {
			if err := c.Remove(ctx); err != nil && !errors.Is(err, ErrNotFound) {
				errs[i] = err
			}
		})
	}
	removing.Wait()
	s.mu.Lock()
	storages := s.storages
	s.mu.Unlock()
	err := errors.Join(errors.Join(errs...), s.cfg.Storages.Close())
	if storages != nil {
		err = errors.Join(err, storages.Unmount())
	}
	if errors.Join(errs...) == nil {
		s.end() // nothing is left to be removed
		s.work.Wait()
	}
	return err
}

// Container returns the container called id.
func (s *Sandbox) Container(id string) (*Container, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c, ok := s.containers[id]
	if !ok {
		return nil, fmt.Errorf("container %q: %w", id, ErrNotFound)
	}
	return c, nil
}

// RefitCPUs tells the containers' cgroups that the machine has other processors or
// memory nodes. Containers that are being created or removed need not be told.
func (s *Sandbox) RefitCPUs() {
	s.mu.Lock()
	all := make([]*Container, 0, len(s.containers))
	for _, c := range s.containers {
		all = append(all, c)
	}
	s.mu.Unlock()
	for _, c := range all {
		err := c.With(s.background, func(_ context.Context, r Instance) error { return r.Cgroup().Refit() })
		if err != nil && !errors.Is(err, ErrNotFound) && !errors.Is(err, ErrState) {
			s.cfg.Log.Warn("container keeps the processors it has", "container", c.id, "error", err)
		}
	}
}

// add makes c known, if there may be one more of its name.
func (s *Sandbox) add(c *Container) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.state == destroyed:
		return fmt.Errorf("the sandbox has been destroyed: %w", ErrState)
	case s.state != ready:
		return fmt.Errorf("no sandbox has been created: %w", ErrState)
	case s.containers[c.id] != nil:
		return fmt.Errorf("container %q: %w", c.id, ErrExists)
	case len(s.containers) >= MaxContainers:
		return fmt.Errorf("container %q: %w: %d containers", c.id, ErrLimit, MaxContainers)
	}
	s.containers[c.id] = c
	return nil
}

// forget makes c unknown.
func (s *Sandbox) forget(c *Container) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.containers[c.id] == c {
		delete(s.containers, c.id)
	}
	if s.pidns == c {
		s.pidns = nil
	}
}

// sharePIDs makes c the owner of the pod's pid namespace, unless there is one:
// then it returns the owner.
func (s *Sandbox) sharePIDs(c *Container) (owner *Container) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.pidns == nil {
		s.pidns = c
	}
	return s.pidns
}
