package main

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"kata/test/pace"
)

// terminal is a person at a terminal in which kata-agent-ctl runs.
type terminal struct {
	*testing.T
	master *os.File
	cmd    *exec.Cmd
	exited chan error
	screen strings.Builder // all that was shown
	seen   int             // up to where expect has looked
}

// patience bounds each wait.
const patience = 20 * time.Second

// openTerminal starts the program in a new terminal.
func openTerminal(t *testing.T, args ...string) *terminal {
	t.Helper()
	master, slave := openPTY(t)
	program, err := exec.LookPath("kata-agent-ctl")
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
	cmd.Env = append(os.Environ(), "TERM=xterm")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true, Pdeathsig: unix.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	_ = slave.Close()
	x := &terminal{T: t, master: master, cmd: cmd, exited: make(chan error, 1)}
	go func() { x.exited <- cmd.Wait() }()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		x.exited <- <-x.exited
		_ = master.Close()
	})
	return x
}

func openPTY(t *testing.T) (master, slave *os.File) {
	t.Helper()
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NOCTTY|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	master = os.NewFile(uintptr(fd), "/dev/ptmx")
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: 50, Col: 100}); err != nil {
		t.Fatal(err)
	}
	slave, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	return master, slave
}

// keys types.
func (x *terminal) keys(text string) {
	x.Helper()
	if _, err := io.WriteString(x.master, text); err != nil {
		x.Fatal(err)
	}
}

// expect waits until the screen shows text, after what was expected before.
func (x *terminal) expect(text string) {
	x.Helper()
	_ = x.master.SetReadDeadline(time.Now().Add(pace.Of(patience)))
	buf := make([]byte, 4096)
	for {
		if i := strings.Index(x.screen.String()[x.seen:], text); i >= 0 {
			x.seen += i + len(text)
			return
		}
		n, err := x.master.Read(buf)
		x.screen.Write(buf[:n])
		if err != nil {
			x.Fatalf("waiting for %q: %v; the screen:\n%s", text, err, x.screen.String()[x.seen:])
		}
	}
}

// ends waits for the program to end with a status.
func (x *terminal) ends(status int) {
	x.Helper()
	select {
	case err := <-x.exited:
		x.exited <- err
		if got := x.cmd.ProcessState.ExitCode(); got != status {
			x.Errorf("it ends with %d, not %d", got, status)
		}
	case <-time.After(pace.Of(patience)):
		x.Errorf("it does not end; the screen:\n%s", x.screen.String())
	}
}

// testAgentAt starts an agent with a sleeping container and returns its address.
func testAgentAt(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	socket := filepath.Join(dir, "agent.sock")
	stop, err := startAgent(buildAgent(t), socket)
	if err != nil {
		t.Fatal(err)
	}
	cgroup := fmt.Sprintf("/katactl%d", time.Now().UnixNano())
	t.Cleanup(func() {
		stop()
		removeCgroup(cgroup)
	})
	if err := writeBundle(dir, cgroup); err != nil {
		t.Fatal(err)
	}
	address := "unix://" + socket
	out, err := exec.Command("kata-agent-ctl", "connect", "--server-address", address, "--bundle-dir", dir,
		"-c", "CreateSandbox", "-c", `CreateContainer cid=web args="sleep 1000"`, "-c", "StartContainer").CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return address
}

func TestInteractive(t *testing.T) {
	address := testAgentAt(t)
	x := openTerminal(t, "-l", "debug", "connect", "--server-address", address, "-i", "-c", "Check")
	x.expect("status: SERVING\r\n")
	x.expect("agent> ")

	// Completion of a command, of a key, of a value; candidates when it is not
	// clear.
	x.keys("Lis\t")
	x.expect("List")
	x.keys("\t")
	x.expect("ListInterfaces  ListProcesses   ListRoutes\r\n")
	x.keys("P\tci\t")
	x.expect("ListProcesses cid=")
	x.keys("web\r")
	x.expect("sleep 1000")
	x.expect("agent> ")
	x.keys("SignalProcess signal=SIGC\t")
	x.expect("signal=SIGCONT ")
	x.keys("cid=web\r")
	x.expect("ok\r\n")

	// History, and a line that is edited.
	x.keys("\x1b[A\x1b[A")
	x.expect("ListProcesses cid=web")
	x.keys("\x01help \x05\x17\r") // to the beginning, to the end, without the last word
	x.expect("ListProcesses (AgentService)")

	// Failures are part of the conversation.
	x.keys("Chek\r")
	x.expect("did you mean Check?")
	x.keys("StartContainer cid=nobody\r")
	x.expect("NotFound")

	// Ctrl-C ends a command, not the session.
	x.keys("WaitProcess cid=web\r")
	x.expect("msg=call method=WaitProcess")
	x.keys("\x03")
	x.expect("Canceled: interrupted")
	x.expect("agent> ")
	x.keys("Check\r")
	x.expect("SERVING")
	x.expect("agent> ")
	x.keys("quit\r")
	x.ends(0)
}

func TestEndOfInput(t *testing.T) {
	address := testAgentAt(t)
	for _, tt := range []struct {
		name   string
		end    func(*terminal)
		status int
	}{
		{"Ctrl-D", func(x *terminal) { x.keys("\x04") }, 0},
		{"Ctrl-C at the prompt", func(x *terminal) { x.keys("\x03") }, 0},
		{"SIGTERM", func(x *terminal) { _ = x.cmd.Process.Signal(syscall.SIGTERM) }, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			x := openTerminal(t, "connect", "--server-address", address, "-i")
			x.expect("agent> ")
			before := settings(t, x.master)
			tt.end(x)
			x.ends(tt.status)
			if after := settings(t, x.master); after&unix.ECHO == 0 || before&unix.ECHO != 0 {
				t.Errorf("the terminal is left raw (%#x, while typing %#x)", after, before)
			}
		})
	}
}

// settings returns the local flags of a terminal.
func settings(t *testing.T, terminal *os.File) uint32 {
	t.Helper()
	state, err := unix.IoctlGetTermios(int(terminal.Fd()), unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	return state.Lflag
}
