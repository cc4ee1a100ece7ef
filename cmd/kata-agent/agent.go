package main

import (
	"context"
	"errors"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"kata/api"
	"kata/api/ttrpc"
	service "kata/guest/agent"
	"kata/guest/agent/boot"
	"kata/guest/agent/helper"
	"kata/guest/agent/idle"
	"kata/guest/agent/log"
	"kata/guest/agent/reaper"
	"kata/guest/agent/vsock"
	"kata/guest/container"
	"kata/guest/container/oom"
	"kata/guest/container/stream"
	"kata/guest/machine/device"
	"kata/guest/machine/module"
	"kata/guest/sandbox"
	"kata/guest/storage"
	"kata/lib/fmt"
)

const (
	// maxProcs bounds threads: the agent waits, it does not compute.
	maxProcs = 2
	// gcPercent makes the smallest heap that is collected 0.5 MiB instead of 4.
	gcPercent = 12
	// idleAfter is how long after the last call, or the last data of a stream,
	// unused memory goes back.
	idleAfter = time.Second
	// idleBetween is how often that is done for a container that does little.
	idleBetween = 10 * time.Second
	// maxFiles is the kernel's own limit (fs.nr_open).
	maxFiles = 1 << 20
	// shutdownTimeout bounds the wait for the last answers to be sent.
	shutdownTimeout = time.Second
	// helperTimeout bounds a helper: the kernel takes big tables in seconds.
	helperTimeout = 30 * time.Second
	// maxUnclaimed and patience bound stream connections that no request has
	// named yet.
	maxUnclaimed = 256
	patience     = 30 * time.Second
)

// agent is the running program.
type agent struct {
	log    *log.Logger
	start  time.Time
	init   bool // the machine is ours
	params boot.Params

	calls, streams *vsock.Listener
	console        *vsock.Listener // nil without a debug console
	hostLog        *hostLog        // nil if the log is for the console
	modules        *module.Set
	sealing        sync.Once
	sealed         error // of seal
	idle           *idle.Idle
	ending         atomic.Bool // connections for calls are to be closed with care
}

// isInit reports whether the agent is the machine's init. With an address in the
// environment it is not, even if it is the first process of a namespace.
func isInit() bool {
	return os.Getpid() == 1 && os.Getenv("KATA_AGENT_SERVER_ADDR") == ""
}

// run listens as early as possible, since the host waits for that and not for
// what follows.
func (a *agent) run(ctx context.Context) error {
	debug.SetGCPercent(gcPercent)
	if runtime.GOMAXPROCS(0) > maxProcs {
		runtime.GOMAXPROCS(maxProcs)
	}
	if err := a.configure(); err != nil {
		return err
	}
	if err := a.loadModules(); err != nil {
		return err
	}
	if a.params.ServerAddr.Path != "" {
		// A path may be on a file system that is still to be mounted.
		if err := a.prepare(); err != nil {
			return err
		}
	}
	if err := a.listen(); err != nil {
		return err
	}
	listening := time.Since(a.start)
	if a.hostLog != nil {
		go a.logToHost(ctx)
	}
	if a.params.ReadyPort != 0 {
		go a.signalReady(ctx)
	}
	if a.params.ServerAddr.Path == "" {
		if err := a.prepare(); err != nil {
			return err
		}
	}
	a.log.Debug("agent listens", "version", version, "after_us", listening.Microseconds(), "boot_us", boottime())
	return a.serve(ctx)
}

// boottime returns the microseconds since the kernel was started.
func boottime() int64 {
	var now unix.Timespec
	if unix.ClockGettime(unix.CLOCK_BOOTTIME, &now) != nil {
		return 0
	}
	return now.Nano() / 1000
}

// configure finds out what the agent is asked to be.
func (a *agent) configure() error {
	var line string
	if a.init {
		if err := errors.Join(boot.Root(), boot.MountProc()); err != nil {
			return err
		}
		text, err := os.ReadFile("/proc/cmdline")
		if err != nil {
			return err
		}
		line = string(text)
	} else {
		// The command line is the machine's, not ours; the environment says the
		// same in the same words.
		line = "agent.server_addr=" + os.Getenv("KATA_AGENT_SERVER_ADDR")
		if level := os.Getenv("KATA_AGENT_LOG_LEVEL"); level != "" {
			line += " agent.log=" + level
		}
	}
	a.params = boot.ParseCommandLine(line)
	a.log.SetLevel(a.params.LogLevel)
	if a.params.LogPort != 0 {
		a.hostLog = newHostLog(os.Stderr)
		a.log.SetOutput(a.hostLog)
	}
	for _, p := range a.params.Problems {
		if !a.init {
			return fmt.Errorf("environment: %s %q: %w", p.Key, p.Value, p.Err)
		}
		a.log.Warn("kernel parameter ignored", "key", p.Key, "value", p.Value, "error", p.Err)
	}
	return nil
}

// listen listens for calls and streams.
func (a *agent) listen() (err error) {
	addr := a.params.ServerAddr
	if addr.Path != "" {
		if a.calls, err = vsock.ListenUnix(addr.Path); err == nil {
			a.streams, err = vsock.ListenUnix(addr.Path + ".streams")
		}
		return err
	}
	if a.calls, err = vsock.Listen(addr.Port); err != nil {
		return err
	}
	if a.streams, err = vsock.Listen(api.PortStreams); err != nil {
		return err
	}
	return a.listenConsole()
}

// loadModules loads what the image's kernel needs to be a guest's, vsock for one.
func (a *agent) loadModules() (err error) {
	if !a.init {
		return nil
	}
	begun := time.Now()
	if a.modules, err = module.Read(api.ModuleDir, api.ModuleList); err != nil {
		return err
	}
	n := a.modules.Boot(func(name string, err error) {
		a.log.Warn("kernel module not loaded", "module", name, "error", err)
	})
	if n > 0 {
		a.log.Debug("kernel modules loaded", "modules", n, "took_us", time.Since(begun).Microseconds())
	}
	return nil
}

// prepare makes the machine, or the process, fit for calls.
func (a *agent) prepare() error {
	if a.init {
		if err := boot.Mount(); err != nil {
			return err
		}
	} else if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("become a subreaper: %w", err)
	}
	return os.MkdirAll(storage.Root, 0o755)
}

// finish makes the machine fit for containers and then closes ready.
func (a *agent) finish(ready chan<- struct{}) error {
	if a.init {
		if err := boot.Finish(a.log); err != nil {
			return err
		}
		if !a.modules.Left() {
			if err := a.seal(); err != nil {
				return err
			}
		}
		// As many files as the kernel allows, for the agent and for containers
		// whose spec does not limit them.
		limit := &unix.Rlimit{Cur: maxFiles, Max: maxFiles}
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, limit); err != nil {
			a.log.Warn("limit of open files stays low", "error", err)
		}
	}
	close(ready)
	a.log.Debug("agent ready", "after_us", time.Since(a.start).Microseconds(), "boot_us", boottime())
	return nil
}

// seal makes the machine one that changes no more: no code is loaded into its
// kernel, its root is read-only. It is called before there are containers, by
// CreateSandbox if that may load modules. Later calls do nothing.
func (a *agent) seal() error {
	if !a.init {
		return nil
	}
	a.sealing.Do(func() {
		if err := a.modules.Close(); err != nil {
			a.log.Warn("kernel modules can still be loaded", "error", err)
		}
		a.sealed = boot.ReadonlyRoot()
	})
	return a.sealed
}

// serve answers calls until DestroySandbox or, outside a VM, a signal ends it.
func (a *agent) serve(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	a.idle = a.newIdle()
	children := reaper.New()
	hub := stream.NewHub(stream.HubConfig{MaxUnclaimed: maxUnclaimed, Patience: patience, Log: a.log})
	defer hub.Close()
	ready := make(chan struct{})
	kills, err := oom.NewWatcher(a.log.Subsystem("oom"))
	if err != nil {
		return fmt.Errorf("watch for OOM kills: %w", err)
	}
	defer kills.Close()
	pod := a.newSandbox(children, hub, kills, ready)
	helpers := &helper.Config{Dir: api.HelperDir, Agent: "/proc/self/exe", Timeout: helperTimeout, Reaper: children}
	calls := service.New(service.Config{
		Version: version, Sandbox: pod, Init: a.init, Log: a.log, OOM: kills,
		Devices: device.NewFinder(a.params.HotplugTimeout), RunHelper: helpers.Run, Modules: a.modules, Seal: a.seal,
	})
	options := ttrpc.ServerOptions{
		Code: service.Coded, OnPanic: a.panicked, Waits: service.Waits,
		OnDone: func(name, method string, took time.Duration, err error) {
			if service.CostsNothing(name, method) {
				a.idle.Touched()
			} else {
				a.idle.Used()
			}
			if a.log.Enabled(log.LevelTrace) {
				a.logCall(name, method, took, err)
			}
		},
	}
	server := ttrpc.NewServer(options)
	calls.Register(server)

	served, streamed := make(chan error, 1), make(chan error, 1)
	go func() { served <- server.Serve(ctx, callListener{a.calls, &a.ending}) }()
	go func() { streamed <- hub.Serve(a.streams) }()
	go func() { _ = children.Run(ctx) }()
	go a.watchKills(kills)
	if err := a.finish(ready); err != nil {
		return err
	}
	go a.serveConsole(ctx, children)
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, unix.SIGTERM, unix.SIGINT, unix.SIGHUP, unix.SIGQUIT)
	for {
		select {
		case err := <-served:
			return fmt.Errorf("serve calls: %w", err)
		case err := <-streamed:
			return fmt.Errorf("serve streams: %w", err)
		case <-calls.Destroyed():
			_ = kills.Close() // so that the last answers need not wait for a call that waits
			return a.shutdown(ctx, server, served)
		case s := <-signals:
			if a.init {
				a.log.Debug("signal ignored", "signal", int(s.(unix.Signal)))
				continue // an init that ends takes the machine with it
			}
			_ = pod.Destroy(ctx)
			return a.shutdown(ctx, server, served)
		}
	}
}

// newIdle gives unused memory back. The program's own pages are no loss where it
// is in the initramfs.
func (a *agent) newIdle() *idle.Idle {
	i, err := idle.New(idle.Config{After: idleAfter, Between: idleBetween, Text: a.init})
	if err != nil {
		a.log.Warn("the program's pages stay mapped", "error", err)
	}
	return i
}

// watchKills learns of OOM kills until the watcher is closed. Without it those
// of processes that have no exit to tell are noticed late.
func (a *agent) watchKills(kills *oom.Watcher) {
	if err := kills.Run(); err != nil {
		a.log.Error("OOM kills are noticed late", "error", err)
	}
}

func (a *agent) newSandbox(children *reaper.Reaper, hub *stream.Hub, kills *oom.Watcher, ready <-chan struct{}) *sandbox.Sandbox {
	devices := device.NewFinder(a.params.HotplugTimeout)
	cfg := sandbox.Config{
		Buffers:    stream.NewBuffers(a.idle.Used),
		OOM:        kills,
		PipeSize:   a.params.PipeSize,
		Ready:      ready,
		ResolvConf: storage.Root + "/sandbox/resolv.conf",
		Log:        a.log,
	}
	cfg.Real(container.NewRuntime(container.Config{Exe: a.executable(), Reaper: children, CgroupRoot: boot.CgroupRoot, Log: a.log}),
		storage.NewManager(storage.Root, devices), devices, hub)
	if a.init {
		cfg.SetHostname = func(name string) error { return unix.Sethostname([]byte(name)) }
	}
	return sandbox.New(cfg)
}

// executable is the program of the stages. As init it is named by its path, which
// leads through the read-only root, unlike /proc/self/exe.
func (a *agent) executable() string {
	if a.init {
		return "/init"
	}
	return ""
}

// panicked logs a handler's panic, the only trace of it.
func (a *agent) panicked(_, method string, value any) {
	a.log.Error("call panicked", "method", method, "panic", value, "stack", debug.Stack())
}

// shutdown lets the last answers out, waits until they have arrived, and ends the
// machine if it is ours.
func (a *agent) shutdown(ctx context.Context, server *ttrpc.Server, served <-chan error) error {
	ctx, cancel := context.WithTimeout(ctx, shutdownTimeout)
	defer cancel()
	a.ending.Store(true)
	_ = server.Shutdown(ctx) // calls that still wait are cut off
	<-served
	a.hostLog.close()
	if !a.init {
		return nil
	}
	return os.NewSyscallError("reboot", unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF))
}
