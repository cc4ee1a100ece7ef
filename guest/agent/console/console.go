// Package console is the debug console: who connects to its port gets a shell in
// the guest, as root, outside of all containers.
//
// The shell is a file of the image; the guest's own has none, and then the client
// is told so. Every connection has a terminal and a session of its own. A session
// ends with its shell or with the connection, whichever ends first; the other one
// is ended then, the shell as any terminal does it that is gone: by SIGHUP, and
// by SIGKILL if that does not help.
//
// Life cycle: a Console is ready when New returns; Serve ends with the listener,
// Close ends the sessions that are left.
package console

import (
	"errors"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"kata/guest/agent/log"
	"kata/guest/agent/reaper"
	"kata/guest/agent/vsock"
)

const (
	// maxSessions bounds the sessions at a time.
	maxSessions = 16
	// lastWords is how long the output of a shell that has ended is waited for,
	// since what it left running may hold the terminal, and reading how long
	// the client may take for it.
	lastWords = time.Second
	reading   = 5 * time.Second
	// maxDrained bounds the output that is copied after that.
	maxDrained = 1 << 20
	// hangUp is how long a shell has to end after SIGHUP.
	hangUp = 2 * time.Second
	// lingerSeconds is how long the last words may take to arrive.
	lingerSeconds = 2
	// respawn is the time between two shells on the machine's console.
	respawn = time.Second
)

// Config is what a Console works with.
type Config struct {
	// Reaper collects the shells.
	Reaper *reaper.Reaper
	// Root is before the paths of shells, for tests; "" is the guest's root.
	Root string
	Log  *log.Logger
}

// Console gives shells.
type Console struct {
	cfg Config

	mu       sync.Mutex
	closed   bool
	conns    map[*vsock.Conn]bool // whether it has a session
	sessions int
	running  sync.WaitGroup
}

// New returns a console that nobody can reach yet.
func New(cfg Config) *Console {
	return &Console{cfg: cfg, conns: make(map[*vsock.Conn]bool)}
}

// Serve gives a shell to each connection until the listener is closed; it then
// returns nil.
func (c *Console) Serve(l *vsock.Listener) error {
	for {
		conn, err := l.Accept()
		if errors.Is(err, os.ErrClosed) {
			return nil
		}
		if err != nil {
			return err
		}
		_ = conn.Linger(lingerSeconds) // without it nothing but the last words are lost
		c.enter(conn)
	}
}

// enter starts a session, or tells the client that there are too many.
func (c *Console) enter(conn *vsock.Conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		_ = conn.Close()
		return
	}
	room := c.sessions < maxSessions
	if room {
		c.sessions++
	}
	c.conns[conn] = room
	c.running.Go(func() {
		defer c.leave(conn)
		if !room {
			say(conn, "there are 16 sessions already")
			return
		}
		c.serve(conn)
	})
}

func (c *Console) leave(conn *vsock.Conn) {
	farewell(conn)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.conns[conn] {
		c.sessions--
	}
	delete(c.conns, conn)
}

// Close ends all sessions and waits for that.
func (c *Console) Close() {
	c.mu.Lock()
	c.closed = true
	for conn := range c.conns {
		_ = conn.Close()
	}
	c.mu.Unlock()
	c.running.Wait()
}

// farewell closes a connection when the client has, or had the time to read what
// it was told: closing one with unread input may cut that off.
func farewell(conn *vsock.Conn) {
	_ = conn.CloseWrite()
	_ = conn.SetDeadline(time.Now().Add(lastWords))
	for buf := make([]byte, 512); ; {
		if _, err := conn.Read(buf); err != nil {
			break
		}
	}
	_ = conn.Close()
}

// say writes a line for the person at the other end, who may not read it.
func say(conn *vsock.Conn, text string) {
	_ = conn.SetDeadline(time.Now().Add(reading))
	_, _ = conn.Write([]byte("kata-agent: " + text + "\r\n"))
}

const noShell = "this guest has no shell: its image holds the agent alone; " +
	"an image with one is built by kata-image initrd -variant debug"

// shell returns the path of the guest's shell, "" if it has none.
func (c *Console) shell() string {
	for _, path := range [...]string{"/bin/bash", "/usr/bin/bash", "/bin/sh", "/usr/bin/sh"} {
		path = c.cfg.Root + path
		if unix.Access(path, unix.X_OK) == nil {
			return path
		}
	}
	return ""
}

// start starts a shell in a session of its own with tty as its controlling
// terminal.
func (c *Console) start(shell string, tty uintptr) (*reaper.Process, error) {
	process, err := c.cfg.Reaper.Start(func() (int, error) {
		login := "-" + shell[strings.LastIndexByte(shell, '/')+1:]
		return syscall.ForkExec(shell, []string{login}, &syscall.ProcAttr{
			Dir:   "/",
			Env:   []string{"HOME=/", "PATH=/bin:/sbin:/usr/bin:/usr/sbin", "TERM=linux", "USER=root"},
			Files: []uintptr{tty, tty, tty},
			Sys:   &syscall.SysProcAttr{Setsid: true, Setctty: true},
		})
	})
	if err != nil {
		return nil, err
	}
	sacrifice(process.PID())
	return process, nil
}

// Machine gives a shell on the machine's own console, one after the other, until
// done is closed or there is none to give.
func (c *Console) Machine(done <-chan struct{}) error {
	for {
		shell := c.shell()
		if shell == "" {
			return errors.New(noShell)
		}
		tty, err := unix.Open("/dev/console", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
		if err != nil {
			return &os.PathError{Op: "open", Path: "/dev/console", Err: err}
		}
		process, err := c.start(shell, uintptr(tty))
		_ = unix.Close(tty)
		if err != nil {
			return err
		}
		select {
		case <-process.Done():
		case <-done:
			_ = process.Signal(unix.SIGKILL)
			return nil
		}
		pause := time.NewTimer(respawn)
		select {
		case <-pause.C:
		case <-done:
			pause.Stop()
			return nil
		}
	}
}
