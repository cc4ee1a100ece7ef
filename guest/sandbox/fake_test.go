package sandbox

import (
	"context"
	"errors"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"kata/api/agentpb"
	"kata/api/ocipb"
	"kata/guest/agent/reaper"
	"kata/guest/container"
	"kata/guest/container/cgroup"
	"kata/guest/container/ocispec"
	"kata/guest/container/plan"
	"kata/guest/container/stream"
)

// fake is a guest whose parts are in memory: what runs is a state, and what is
// mounted or assigned a count. fails makes one step fail: the name of the call.
type fake struct {
	t *testing.T

	mu        sync.Mutex
	fails     map[string]error
	blocks    map[string]chan struct{} // a call waits for it, whatever its context says
	entered   map[string]chan struct{} // closed when a call that blocks has begun
	instances []*fakeInstance
	mounted   int
	assigned  int
	let       int // calls of LetGo
	open      []*stream.Set
}

func newFake(t *testing.T) *fake {
	return &fake{t: t, fails: make(map[string]error), blocks: make(map[string]chan struct{}), entered: make(map[string]chan struct{})}
}

// config is a sandbox's of the fake's parts.
func (f *fake) config() Config {
	ready := make(chan struct{})
	close(ready)
	return Config{
		Runtime: f, Storages: fakeStorages{f}, Devices: fakeDevices{f}, Streams: fakeStreams{f},
		Buffers: stream.NewBuffers(func() {}), Ready: ready, ResolvConf: f.t.TempDir() + "/etc/resolv.conf",
	}
}

// block makes a call wait until the function that is returned has been called;
// the channel is closed when it waits.
func (f *fake) block(call string) (entered <-chan struct{}, release func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	gate, in := make(chan struct{}), make(chan struct{})
	f.blocks[call], f.entered[call] = gate, in
	return in, sync.OnceFunc(func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		delete(f.blocks, call)
		close(gate)
	})
}

// fail makes a call fail, or not any more.
func (f *fake) fail(call string, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fails[call] = err
}

// step is what every call begins with.
func (f *fake) step(ctx context.Context, call string) error {
	f.mu.Lock()
	gate, err := f.blocks[call], f.fails[call]
	if in := f.entered[call]; gate != nil && in != nil {
		close(in)
		delete(f.entered, call)
	}
	f.mu.Unlock()
	if gate != nil {
		select {
		case <-gate:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return err
}

// nothingLeft finds out whether everything has been released.
func (f *fake) nothingLeft() {
	f.t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, i := range f.instances {
		if !i.destroyed {
			f.t.Errorf("container %s has not been destroyed", i.id)
		}
	}
	if f.mounted != 0 || f.assigned != 0 {
		f.t.Errorf("%d storages are mounted and %d devices assigned", f.mounted, f.assigned)
	}
	for _, s := range f.open {
		if f := s.Child().Stdout; f != nil {
			if _, err := f.Stat(); !errors.Is(err, os.ErrClosed) {
				panic("a stream is open: " + f.Name())
			}
		}
	}
}

// Create implements Runtime.
func (f *fake) Create(ctx context.Context, spec *ocispec.Container, _ container.Stdio, o RuntimeOptions) (Instance, error) {
	if err := f.step(ctx, "create"); err != nil {
		return nil, err
	}
	i := &fakeInstance{fake: f, id: spec.ID(), spec: spec, joined: o.JoinPID}
	i.init = newTask(f)
	i.tasks = []*fakeTask{i.init}
	f.mu.Lock()
	f.instances = append(f.instances, i)
	f.mu.Unlock()
	if err := f.step(ctx, "create with a rest"); err != nil {
		return i, err
	}
	return i, nil
}

type fakeInstance struct {
	fake   *fake
	id     string
	spec   *ocispec.Container
	joined Instance
	init   *fakeTask

	// Under the fake's mu.
	tasks     []*fakeTask
	started   bool
	paused    bool
	destroyed bool
	used      []string // calls that came after Destroy
}

// here is whether the container is there still, for a call.
func (i *fakeInstance) here(call string) error {
	i.fake.mu.Lock()
	defer i.fake.mu.Unlock()
	if i.destroyed {
		i.used = append(i.used, call)
		return os.ErrClosed
	}
	return nil
}

func (i *fakeInstance) call(ctx context.Context, call string) error {
	return errors.Join(i.here(call), i.fake.step(ctx, call))
}

func (i *fakeInstance) Init() Task               { return i.init }
func (i *fakeInstance) Spec() *ocispec.Container { return i.spec }
func (i *fakeInstance) Cgroup() *cgroup.Group    { return nil }

func (i *fakeInstance) Start(ctx context.Context) error {
	if err := i.call(ctx, "start"); err != nil {
		return err
	}
	i.fake.mu.Lock()
	defer i.fake.mu.Unlock()
	i.started = true
	return nil
}

func (i *fakeInstance) Exec(ctx context.Context, _ string, _ *plan.Process, _ container.Stdio) (Task, error) {
	if err := i.call(ctx, "exec"); err != nil {
		return nil, err
	}
	t := newTask(i.fake)
	i.fake.mu.Lock()
	defer i.fake.mu.Unlock()
	switch {
	case i.paused:
		return nil, container.ErrPaused
	case !i.started || i.init.ended():
		return nil, container.ErrNotRunning
	}
	i.tasks = append(i.tasks, t)
	return t, nil
}

func (i *fakeInstance) SignalAll(signal unix.Signal) error {
	if err := i.here("signal"); err != nil {
		return err
	}
	i.fake.mu.Lock()
	tasks := slices.Clone(i.tasks)
	i.fake.mu.Unlock()
	for _, t := range tasks {
		_ = t.Signal(signal)
	}
	return i.fake.step(context.Background(), "signal")
}

func (i *fakeInstance) Pause(ctx context.Context) error  { return i.pause(ctx, "pause", true) }
func (i *fakeInstance) Resume(ctx context.Context) error { return i.pause(ctx, "resume", false) }

func (i *fakeInstance) pause(ctx context.Context, call string, paused bool) error {
	if err := i.call(ctx, call); err != nil {
		return err
	}
	i.fake.mu.Lock()
	defer i.fake.mu.Unlock()
	if !i.started || i.init.ended() {
		return container.ErrNotRunning
	}
	i.paused = paused
	return nil
}

func (i *fakeInstance) Update(*ocipb.LinuxResources) error {
	return i.call(context.Background(), "update")
}

func (i *fakeInstance) Stats() (*agentpb.CgroupStats, error) {
	if err := i.call(context.Background(), "stats"); err != nil {
		return nil, err
	}
	return &agentpb.CgroupStats{PidsStats: &agentpb.PidsStats{Current: i.running()}}, nil
}

func (i *fakeInstance) running() (n uint64) {
	i.fake.mu.Lock()
	defer i.fake.mu.Unlock()
	for _, t := range i.tasks {
		if !t.ended() {
			n++
		}
	}
	return n
}

func (i *fakeInstance) Pids() ([]int, error) {
	if err := i.here("pids"); err != nil {
		return nil, err
	}
	pids := make([]int, i.running())
	for at := range pids {
		pids[at] = 100 + at
	}
	return pids, nil
}

func (i *fakeInstance) Destroy(ctx context.Context) error {
	i.fake.mu.Lock()
	gone := i.destroyed
	i.fake.mu.Unlock()
	if gone {
		return nil
	}
	_ = i.SignalAll(unix.SIGKILL)
	if err := i.fake.step(ctx, "destroy"); err != nil {
		return err
	}
	i.fake.mu.Lock()
	defer i.fake.mu.Unlock()
	i.destroyed = true
	return nil
}

// fakeTask is a process that runs until it is killed.
type fakeTask struct {
	fake    *fake
	console *os.File
	once    sync.Once
	done    chan struct{}
	exit    reaper.Exit
}

func newTask(f *fake) *fakeTask {
	t := &fakeTask{fake: f, done: make(chan struct{})}
	if f.step(context.Background(), "terminal") != nil { // one that cannot be used
		t.console, _ = os.Open(os.DevNull)
		_ = t.console.Close()
	}
	return t
}

func (t *fakeTask) ended() bool {
	select {
	case <-t.done:
		return true
	default:
		return false
	}
}

func (t *fakeTask) Done() <-chan struct{} { return t.done }
func (t *fakeTask) Exit() reaper.Exit     { return t.exit }
func (t *fakeTask) Console() *os.File     { return t.console }

func (t *fakeTask) Signal(signal unix.Signal) error {
	if t.ended() {
		return container.ErrNotRunning
	}
	if signal == unix.SIGKILL {
		t.once.Do(func() {
			t.exit = reaper.Exit{Status: 128 + int(signal), Time: time.Now()}
			close(t.done)
		})
	}
	return nil
}

func (t *fakeTask) Resize(uint32, uint32) error { return nil }

type fakeStorages struct{ fake *fake }

func (s fakeStorages) Mount(ctx context.Context, all []*agentpb.Storage) (Mounts, error) {
	for _, one := range all {
		if one.Driver == "tape" {
			return nil, errors.New(`storages[0]: driver "tape"`)
		}
	}
	if err := s.fake.step(ctx, "mount"); err != nil {
		return nil, err
	}
	return &fakeSet{s.fake, &s.fake.mounted, "unmount", count(s.fake, &s.fake.mounted, 1)}, nil
}

func (s fakeStorages) LetGo() {
	s.fake.mu.Lock()
	defer s.fake.mu.Unlock()
	s.fake.let++
}

func (s fakeStorages) Close() error { return s.fake.step(context.Background(), "close storages") }

type fakeDevices struct{ fake *fake }

func (d fakeDevices) Assign(ctx context.Context, all []*agentpb.Device, _ *ocispec.Container) (Assigned, error) {
	for _, one := range all {
		if one.Type == "floppy" {
			return nil, errors.New(`devices[0].type "floppy"`)
		}
	}
	if err := d.fake.step(ctx, "assign"); err != nil {
		return nil, err
	}
	return &fakeSet{d.fake, &d.fake.assigned, "release devices", count(d.fake, &d.fake.assigned, 1)}, nil
}

// fakeSet is what one call has mounted or assigned.
type fakeSet struct {
	fake *fake
	of   *int
	call string
	held bool
}

func count(f *fake, of *int, n int) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	*of += n
	return true
}

func (s *fakeSet) Release() error {
	if !s.held {
		return nil
	}
	s.held = false
	count(s.fake, s.of, -1)
	return s.fake.step(context.Background(), s.call)
}

func (s *fakeSet) Unmount() error { return s.Release() }

type fakeStreams struct{ fake *fake }

func (s fakeStreams) Open(ctx context.Context, c stream.Config) (*stream.Set, error) {
	if c.Ports != (stream.Ports{}) { // nobody connects
		<-ctx.Done()
		return nil, ctx.Err()
	}
	if err := s.fake.step(ctx, "open"); err != nil {
		return nil, err
	}
	set, err := stream.Open(ctx, nil, c)
	if err == nil {
		s.fake.mu.Lock()
		s.fake.open = append(s.fake.open, set)
		s.fake.mu.Unlock()
	}
	return set, err
}
