package console

import (
	"errors"
	"os"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"kata/guest/agent/reaper"
	"kata/guest/agent/vsock"
	"kata/guest/container/rootfs"
)

// session is one connection and its shell.
type session struct {
	conn   *vsock.Conn
	master *os.File
	shell  *reaper.Process
	gone   chan struct{} // closed when the client is gone
}

// serve runs a session, or tells the client why there is none.
func (c *Console) serve(conn *vsock.Conn) {
	path := c.shell()
	if path == "" {
		say(conn, noShell)
		return
	}
	s, err := c.open(conn, path)
	if err != nil {
		c.cfg.Log.Warn("debug console has no session", "error", err)
		say(conn, "no session: "+err.Error())
		return
	}
	c.cfg.Log.Info("debug console session begins", "shell", path, "process", s.shell.PID())
	s.run()
	c.cfg.Log.Info("debug console session has ended", "process", s.shell.PID(), "status", s.shell.Exit().Status)
}

// open starts the shell on a terminal of its own.
func (c *Console) open(conn *vsock.Conn, path string) (*session, error) {
	root, err := unix.Open("/", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	master, slave, err := rootfs.OpenTerminal(root)
	_ = unix.Close(root)
	if err != nil {
		return nil, err
	}
	defer unix.Close(slave)
	err = errors.Join(unix.SetNonblock(master, true),
		unix.IoctlSetWinsize(slave, unix.TIOCSWINSZ, &unix.Winsize{Row: 24, Col: 80}))
	s := &session{conn: conn, master: os.NewFile(uintptr(master), "terminal"), gone: make(chan struct{})}
	if err == nil {
		s.shell, err = c.start(path, uintptr(slave))
	}
	if err != nil {
		_ = s.master.Close()
		return nil, err
	}
	return s, nil
}

// run copies until the shell or the client is gone, and ends the other one.
func (s *session) run() {
	output, input := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(output)
		copyAll(s.conn, s.master)
	}()
	go func() {
		defer close(input)
		s.input()
	}()
	select {
	case <-s.shell.Done():
		_ = s.master.SetReadDeadline(time.Now().Add(lastWords))
		_ = s.conn.SetDeadline(time.Now().Add(reading))
		<-output
		s.drain()
	case <-output: // the client does not take it, or nobody has the terminal
	case <-s.gone:
		_ = s.conn.Close()
	}
	_ = s.master.Close() // SIGHUP for the session, and the end of output
	_ = s.conn.CloseWrite()
	_ = s.conn.SetDeadline(time.Now().Add(lastWords))
	limit := time.NewTimer(hangUp)
	select {
	case <-s.shell.Done():
	case <-limit.C:
		_ = s.shell.Signal(unix.SIGKILL)
	}
	limit.Stop()
	<-s.shell.Done()
	<-output
	<-input
}

// copyAll copies from one to the other and reports whether it was the source that
// ended it.
func copyAll(to, from interface {
	Read([]byte) (int, error)
	Write([]byte) (int, error)
},
) bool {
	buf := make([]byte, 4096)
	for {
		n, err := from.Read(buf)
		if n > 0 {
			if _, err := to.Write(buf[:n]); err != nil {
				return false
			}
		}
		if err != nil {
			return true
		}
	}
}

// drain copies what the terminal holds after the shell has ended: the deadline for
// its last words may have passed before anybody came to read them.
func (s *session) drain() {
	raw, err := s.master.SyscallConn()
	if err != nil {
		return
	}
	buf := make([]byte, 4096)
	for range maxDrained / len(buf) { // what it has left running may write for ever
		n := 0
		_ = raw.Control(func(fd uintptr) { n, _ = unix.Read(int(fd), buf) })
		if n <= 0 {
			return
		}
		if _, err := s.conn.Write(buf[:n]); err != nil {
			return
		}
	}
}

// insist is how often a shell is told that there is no more input.
const insist = 200 * time.Millisecond

// input copies what is typed, and closes gone when the client is gone. One that
// will type no more may still read: its shell gets the end-of-file character
// whenever it is the one to read it and has read all that was typed, until it ends.
func (s *session) input() {
	if !copyAll(s.master, s.conn) {
		return // the terminal is gone, which its other half notices
	}
	tick := time.NewTicker(insist)
	defer tick.Stop()
	for {
		if s.hungUp() {
			close(s.gone)
			return
		}
		if s.prompts() && !s.unread() {
			_, _ = s.master.Write([]byte{4}) // VEOF
		}
		select {
		case <-tick.C:
		case <-s.shell.Done():
			return
		}
	}
}

// hungUp reports whether the client does not read any more either.
func (s *session) hungUp() (gone bool) {
	raw, err := s.conn.SyscallConn()
	if err != nil {
		return true
	}
	err = raw.Control(func(fd uintptr) {
		_, err := unix.SendmsgN(int(fd), nil, nil, nil, unix.MSG_NOSIGNAL|unix.MSG_DONTWAIT)
		gone = err != nil && err != unix.EAGAIN
	})
	return gone || err != nil
}

// prompts reports whether the shell itself is in the foreground of its terminal.
func (s *session) prompts() (yes bool) {
	raw, err := s.master.SyscallConn()
	if err != nil {
		return false
	}
	_ = raw.Control(func(fd uintptr) {
		group, err := unix.IoctlGetInt(int(fd), unix.TIOCGPGRP)
		yes = err == nil && group == s.shell.PID()
	})
	return yes
}

// unread reports whether the terminal holds input that nobody has read. The slave
// is asked (ioctl_tty(2), TIOCGPTPEER and TIOCINQ), and closed again: while it is
// open the master does not learn that the shell has closed its own.
func (s *session) unread() (yes bool) {
	raw, err := s.master.SyscallConn()
	if err != nil {
		return false
	}
	_ = raw.Control(func(fd uintptr) {
		slave, _, errno := unix.Syscall(unix.SYS_IOCTL, fd, unix.TIOCGPTPEER, unix.O_RDONLY|unix.O_NOCTTY|unix.O_CLOEXEC)
		if errno != 0 {
			return
		}
		n, err := unix.IoctlGetInt(int(slave), unix.TIOCINQ)
		yes = err == nil && n > 0
		_ = unix.Close(int(slave))
	})
	return yes
}

// sacrifice lets the kernel kill a process when memory is short. It would not
// otherwise, because that is so for the agent.
func sacrifice(pid int) {
	fd, err := unix.Open("/proc/"+strconv.Itoa(pid)+"/oom_score_adj", unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return
	}
	_, _ = syscall.Write(fd, []byte("0"))
	_ = unix.Close(fd)
}
