package stream

import (
	"context"
	"errors"
	"io"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"kata/guest/agent/vsock"
	"kata/guest/fault"
	"kata/lib/fmt"
)

// Errors of the calls that stand in for stream connections.
var (
	// ErrConnected means that a stream belongs to a connection, not to calls.
	ErrConnected = fault.New(fault.State, "the stream is a connection")
	// ErrNoStream means that there is no such stream: a terminal has no
	// standard error, and a closed standard input is none.
	ErrNoStream = fault.New(fault.State, "there is no such stream")
)

// Ports are the host's ports of a process's stream connections. With all of them
// zero the streams are served by calls; with some of them, those that are zero
// are /dev/null, as upstream has it.
type Ports struct{ Stdin, Stdout, Stderr uint32 }

// Config says what a process's streams are.
type Config struct {
	Ports Ports
	// Terminal means that a terminal takes the place of pipes; see SetConsole.
	Terminal bool
	// PipeSize is the capacity of each pipe in bytes, rounded up by the
	// kernel; 0 is the kernel's default.
	PipeSize int
	Buffers  *Buffers
}

// Child are a process's ends of its streams, all nil for a terminal. They stay
// the Set's.
type Child struct{ Stdin, Stdout, Stderr *os.File }

// Set is the agent's side of one process's standard streams.
type Set struct {
	cfg   Config
	conns struct{ stdin, stdout, stderr *vsock.Conn }
	child Child

	// Ends of the pipes or the terminal. Written by Open and SetConsole only.
	stdin          *input
	stdout, stderr *output
	// One call at a time for each of them.
	stdinTurn, stdoutTurn, stderrTurn chan struct{}

	copying sync.WaitGroup
	once    sync.Once
}

// Open claims the connections that cfg names, waiting for them until ctx ends,
// and makes the pipes.
func Open(ctx context.Context, hub *Hub, cfg Config) (_ *Set, err error) {
	s := &Set{
		cfg:       cfg,
		stdinTurn: make(chan struct{}, 1), stdoutTurn: make(chan struct{}, 1), stderrTurn: make(chan struct{}, 1),
	}
	defer func() {
		if err != nil {
			s.Close()
		}
	}()
	for _, stream := range []struct {
		port uint32
		conn **vsock.Conn
	}{
		{cfg.Ports.Stdin, &s.conns.stdin},
		{cfg.Ports.Stdout, &s.conns.stdout},
		{cfg.Ports.Stderr, &s.conns.stderr},
	} {
		if stream.port == 0 {
			continue
		}
		if *stream.conn, err = hub.Claim(ctx, stream.port); err != nil {
			return nil, err
		}
	}
	if cfg.Terminal {
		return s, nil
	}
	if err = s.openPipes(); err != nil {
		return nil, err
	}
	return s, nil
}

// openPipes makes a pipe for each stream, or opens /dev/null.
func (s *Set) openPipes() error {
	stdin, err := s.openPipe(&s.child.Stdin, s.conns.stdin, false)
	if err != nil {
		return err
	}
	if stdin != nil {
		if s.stdin, err = newInput(stdin, false); err != nil {
			return err
		}
	}
	for _, stream := range []struct {
		child **os.File
		conn  *vsock.Conn
		ours  **output
	}{
		{&s.child.Stdout, s.conns.stdout, &s.stdout},
		{&s.child.Stderr, s.conns.stderr, &s.stderr},
	} {
		file, err := s.openPipe(stream.child, stream.conn, true)
		if err != nil {
			return err
		}
		if file == nil {
			continue
		}
		if *stream.ours, err = newOutput(file, false); err != nil {
			return err
		}
	}
	return nil
}

// Connected reports whether the streams are connections, so that Wait waits for
// them; otherwise they are served by calls.
func (s *Set) Connected() bool { return !s.calls() }

// calls reports whether the streams are served by calls.
func (s *Set) calls() bool { return s.cfg.Ports == Ports{} }

// openPipe makes the two ends of one stream: the process's, which blocks, and
// ours, which does not. Ours is nil where the process gets /dev/null.
func (s *Set) openPipe(child **os.File, conn *vsock.Conn, output bool) (ours *os.File, err error) {
	if conn == nil && !s.calls() {
		*child, err = os.OpenFile(os.DevNull, os.O_RDWR, 0)
		return nil, err
	}
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC); err != nil {
		return nil, os.NewSyscallError("pipe2", err)
	}
	childFD, ourFD := fds[0], fds[1]
	if output {
		childFD, ourFD = fds[1], fds[0]
	}
	*child = os.NewFile(uintptr(childFD), "pipe")
	if err := unix.SetNonblock(ourFD, true); err != nil {
		_ = unix.Close(ourFD)
		return nil, os.NewSyscallError("fcntl", err)
	}
	ours = os.NewFile(uintptr(ourFD), "pipe")
	if s.cfg.PipeSize > 0 {
		if _, err := unix.FcntlInt(uintptr(ourFD), unix.F_SETPIPE_SZ, s.cfg.PipeSize); err != nil {
			_ = ours.Close()
			return nil, fmt.Errorf("set pipe size %d: %w", s.cfg.PipeSize, err)
		}
	}
	return ours, nil
}

// Child returns the process's ends.
func (s *Set) Child() Child { return s.child }

// CloseChild closes the process's ends here, when the process has its own.
func (s *Set) CloseChild() {
	for _, file := range []*os.File{s.child.Stdin, s.child.Stdout, s.child.Stderr} {
		if file != nil {
			_ = file.Close()
		}
	}
}

// SetConsole gives the Set the master side of the process's terminal. It uses a
// duplicate; console stays the caller's.
func (s *Set) SetConsole(console *os.File) error {
	raw, err := console.SyscallConn()
	if err != nil {
		return err
	}
	fd, dupErr := -1, error(nil)
	if err := raw.Control(func(master uintptr) {
		if dupErr = unix.SetNonblock(int(master), true); dupErr == nil {
			fd, dupErr = unix.FcntlInt(master, unix.F_DUPFD_CLOEXEC, 3)
		}
	}); err != nil {
		return err
	}
	if dupErr != nil {
		return os.NewSyscallError("fcntl", dupErr)
	}
	file := os.NewFile(uintptr(fd), "terminal")
	if s.stdin, err = newInput(file, true); err != nil {
		return err
	}
	s.stdout, err = newOutput(file, true)
	return err
}

// Start copies between the process's streams and their connections, in the
// background, until Close at the latest. A terminal's output that has no
// connection although its input has one goes nowhere.
func (s *Set) Start() {
	if s.calls() {
		return
	}
	if s.stdin != nil && s.conns.stdin != nil {
		s.copying.Go(func() { s.stdin.copyFrom(s.conns.stdin, s.cfg.Buffers) })
	}
	if s.stdout != nil {
		s.copying.Go(func() { s.stdout.copyTo(s.conns.stdout, s.cfg.Buffers) })
	}
	if s.stderr != nil {
		s.copying.Go(func() { s.stderr.copyTo(s.conns.stderr, s.cfg.Buffers) })
	}
}

// Written returns how many bytes the process has written to each stream. It is
// to be called when the process has exited, and does not wait for anything.
func (s *Set) Written() (stdout, stderr uint64) {
	if s.stdout != nil {
		stdout = s.stdout.written()
	}
	if s.stderr != nil {
		stderr = s.stderr.written()
	}
	return stdout, stderr
}

// Wait waits until nothing is copied any more: the other ends of all streams
// have been closed, on both sides, or the Set has.
func (s *Set) Wait() { s.copying.Wait() }

// Close ends all copying, waits for that and releases everything. Further calls
// do nothing.
func (s *Set) Close() {
	s.once.Do(func() {
		s.CloseChild()
		for _, conn := range []*vsock.Conn{s.conns.stdin, s.conns.stdout, s.conns.stderr} {
			if conn != nil {
				_ = conn.Close()
			}
		}
		if s.stdin != nil {
			_ = s.stdin.file.Close()
		}
		for _, out := range []*output{s.stdout, s.stderr} {
			if out != nil {
				_ = out.file.Close()
			}
		}
	})
	s.copying.Wait()
}

// Write writes p to the process's standard input, waiting until ctx ends for it
// to be taken, and returns how much was.
func (s *Set) Write(ctx context.Context, p []byte) (int, error) {
	switch {
	case s.conns.stdin != nil:
		return 0, ErrConnected
	case s.stdin == nil:
		return 0, ErrNoStream
	}
	if err := turn(ctx, s.stdinTurn); err != nil {
		return 0, err
	}
	defer func() { <-s.stdinTurn }()
	n, err := s.stdin.write(ctx, p)
	if errors.Is(err, os.ErrClosed) {
		err = ErrNoStream
	}
	return n, err
}

// CloseStdin lets the process read end of file after what it has been given. It
// does nothing for a terminal, which has no end of file of its own.
func (s *Set) CloseStdin() {
	if s.cfg.Terminal || s.stdin == nil {
		return
	}
	s.stdin.end()
	if s.conns.stdin != nil {
		_ = s.conns.stdin.Close()
	}
}

// ReadStdout waits until ctx ends for output and returns at most limit bytes of
// it. The end is io.EOF.
func (s *Set) ReadStdout(ctx context.Context, limit int) ([]byte, error) {
	return s.read(ctx, s.stdout, s.conns.stdout, s.stdoutTurn, limit)
}

// ReadStderr is ReadStdout for standard error.
func (s *Set) ReadStderr(ctx context.Context, limit int) ([]byte, error) {
	return s.read(ctx, s.stderr, s.conns.stderr, s.stderrTurn, limit)
}

func (s *Set) read(ctx context.Context, out *output, conn *vsock.Conn, own chan struct{}, limit int) ([]byte, error) {
	switch {
	case conn != nil:
		return nil, ErrConnected
	case out == nil:
		return nil, ErrNoStream
	}
	if err := turn(ctx, own); err != nil {
		return nil, err
	}
	defer func() { <-own }()
	data, err := out.readOnce(ctx, limit, s.cfg.Buffers)
	if errors.Is(err, os.ErrClosed) {
		err = io.EOF
	}
	return data, err
}

// turn takes the only place in line, or gives up with ctx.
func turn(ctx context.Context, line chan struct{}) error {
	select {
	case line <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
