package shim

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/containerd/ttrpc"
	"golang.org/x/sys/unix"

	"kata/host/shim/bootstrap"
	"kata/host/shim/event"
	"kata/host/shim/stats"
	"kata/host/shim/task"
)

const (
	// closeTimeout bounds the end of the tasks and the sandbox, when the server
	// ends with some left.
	closeTimeout = 25 * time.Second
	// flushTimeout bounds the wait for containerd to take the last events.
	flushTimeout = 2 * time.Second
	// hangUpTimeout bounds the wait for clients to hang up, which containerd
	// does once it has the answer to Shutdown.
	hangUpTimeout = 500 * time.Millisecond
)

// serve is the server that "start" has forked. It returns when the shim is to
// end.
func (p *Program) serve(ctx context.Context, inv bootstrap.Invocation) error {
	start, err := inherited()
	if err != nil {
		return fmt.Errorf("the server is started by %q only: %w", bootstrap.ActionStart, err)
	}
	defer start.Close()
	s, err := p.newServer(inv)
	if err != nil {
		_, _ = start.WriteString(err.Error())
		return err
	}
	// Signals count from before containerd knows of us.
	ctx, stop := signal.NotifyContext(ctx, unix.SIGTERM, unix.SIGINT)
	defer stop()
	// A broken pipe is an error of a write, also on descriptors 1 and 2. It is
	// not ignored, which children would inherit.
	pipes := make(chan os.Signal, 1)
	signal.Notify(pipes, unix.SIGPIPE)
	defer signal.Stop(pipes)
	if err := agree(ctx, start); err != nil {
		return errors.Join(fmt.Errorf("tell that the server is ready: %w", err), s.close())
	}
	return s.run(ctx)
}

// inherited is the conversation with "start". It is kept from the children to
// come.
func inherited() (*os.File, error) {
	if _, err := unix.GetsockoptInt(bootstrap.StartFD, unix.SOL_SOCKET, unix.SO_TYPE); err != nil {
		return nil, fmt.Errorf("descriptor %d: %w", bootstrap.StartFD, err)
	}
	syscall.CloseOnExec(bootstrap.StartFD)
	syscall.CloseOnExec(bootstrap.HostMountsFD)
	if err := syscall.SetNonblock(bootstrap.StartFD, true); err != nil {
		return nil, err
	}
	return os.NewFile(bootstrap.StartFD, "start"), nil
}

// agree tells "start" that we are ready, and waits until it has told containerd
// where we are. Killed before that, it has told nobody.
func agree(ctx context.Context, start *os.File) error {
	defer context.AfterFunc(ctx, func() { _ = start.SetReadDeadline(time.Unix(1, 0)) })()
	if _, err := start.WriteString(bootstrap.Ready); err != nil {
		return err
	}
	word := make([]byte, len(bootstrap.Go)+1)
	n, err := start.Read(word)
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case err != nil:
		return fmt.Errorf("%q has ended before its word: %w", bootstrap.ActionStart, err)
	case string(word[:n]) != bootstrap.Go:
		return fmt.Errorf("%q said %q", bootstrap.ActionStart, word[:n])
	}
	return start.Close()
}

// server is the running shim of a pod.
type server struct {
	inv      bootstrap.Invocation
	log      *logger
	listener *countingListener
	ttrpc    *ttrpc.Server
	tasks    *task.Service
	events   *event.Publisher
	trim     *trimmer
	requests *requests
}

func (p *Program) newServer(inv bootstrap.Invocation) (*server, error) {
	// What containerd mounts on the host later shows up here too, and what we
	// mount stays here. "start" has made the namespace.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
		return nil, fmt.Errorf("detach from the host's mounts: %w", err)
	}
	log, err := openLog(logFile, inv)
	if err != nil {
		return nil, err
	}
	trim := newTrimmer()
	requests := newRequests()
	rpc, err := ttrpc.NewServer(ttrpc.WithChainUnaryServerInterceptor(requests.intercept, trim.intercept))
	if err != nil {
		return nil, fmt.Errorf("prepare the ttRPC server: %w", err)
	}
	listener, err := bootstrap.Listen(inv.Socket)
	if err != nil {
		return nil, fmt.Errorf("serve container %s: %w", inv.ID, errors.Join(err, log.Close()))
	}
	var forwarder event.Forwarder = event.Discard{}
	if inv.TTRPCAddress != "" {
		forwarder = event.NewClient(inv.TTRPCAddress)
	}
	events := event.New(inv.Namespace, forwarder, log.Logger)
	s := &server{
		inv: inv, log: log, listener: newCountingListener(listener), ttrpc: rpc, events: events, trim: trim, requests: requests,
		tasks: task.New(task.Config{
			Namespace: inv.Namespace, PID: uint32(os.Getpid()), ConfigPath: inv.Config,
			Boot: p.Boot(BootEnv{
				Namespace: inv.Namespace, Log: log.Logger, Debug: log.debug,
				HostMounts: os.NewFile(bootstrap.HostMountsFD, "host mounts"),
			}),
			Publish: events.Publish, Layout: stats.HostLayout(), Log: log.Logger,
		}),
	}
	s.tasks.Register(rpc)
	return s, nil
}

// run serves until the shim is to end, and ends what is left.
func (s *server) run(ctx context.Context) error {
	served := make(chan error, 1)
	go func() { served <- s.ttrpc.Serve(context.Background(), s.listener) }()
	idle, stopWatch := s.watchIdle()
	defer s.trim.start()()
	s.log.Debug("shim serves", "sandbox", s.inv.ID, "namespace", s.inv.Namespace, "pid", os.Getpid())
	var failure error
	select {
	case <-s.tasks.Done():
	case <-ctx.Done():
		s.log.Info("shim was told to end", "sandbox", s.inv.ID)
	case <-idle:
		s.log.Info("shim ends: it has no task, and nobody asks for anything", "sandbox", s.inv.ID)
	case err := <-served:
		failure = fmt.Errorf("serve: %w", err)
	}
	stopWatch()
	return errors.Join(failure, s.close())
}

// close ends tasks, events and connections, in this order: the last events are
// sent, and answers under way arrive. The socket goes first: whoever finds it
// finds a shim that serves.
func (s *server) close() error {
	var errs []error
	socket := s.listener.Addr().String()
	if err := os.Remove(socket); err != nil && !errors.Is(err, os.ErrNotExist) {
		errs = append(errs, fmt.Errorf("remove the socket: %w", err))
	}
	if err := bootstrap.Sweep(filepath.Dir(socket)); err != nil {
		s.log.Warn("remove sockets of others that are dead", "error", err)
	}
	bounded := func(limit time.Duration, step func(context.Context) error) error {
		ctx, cancel := context.WithTimeout(context.Background(), limit)
		defer cancel()
		return step(ctx)
	}
	errs = append(errs, bounded(closeTimeout, s.tasks.Close), bounded(flushTimeout, s.events.Close))
	// ttRPC's own Shutdown takes a connection for idle that has an answer under
	// way, hence the wait.
	_ = bounded(hangUpTimeout, s.listener.awaitHangUp) // they may as well stay
	errs = append(errs, s.ttrpc.Close())
	err := errors.Join(errs...)
	if err != nil {
		s.log.Error("shim ends", "sandbox", s.inv.ID, "error", err)
	} else {
		s.log.Debug("shim ends", "sandbox", s.inv.ID)
	}
	return errors.Join(err, s.log.Close())
}
