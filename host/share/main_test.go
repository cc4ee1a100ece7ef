package share

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// isolatedEnv marks the run of this test binary that is in a mount namespace
// of its own.
const isolatedEnv = "KATA_SHARE_TEST_ISOLATED"

// TestMain runs the tests in a private mount namespace, as the shim's server
// is in: nothing they mount can reach the machine.
func TestMain(m *testing.M) {
	if os.Getenv(isolatedEnv) == "" {
		os.Exit(isolate())
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
		fmt.Fprintln(os.Stderr, "make mounts private:", err)
		os.Exit(1)
	}
	before := mounts()
	code := m.Run()
	if after := mounts(); code == 0 && after != before {
		fmt.Fprintf(os.Stderr, "mounts are left\nbefore:\n%s\nafter:\n%s\n", before, after)
		code = 1
	}
	os.Exit(code)
}

func isolate() int {
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), isolatedEnv+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	if os.Geteuid() != 0 {
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{HostID: os.Geteuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getegid(), Size: 1}}
	}
	err := cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return exit.ExitCode()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "run tests in a mount namespace:", err)
		return 1
	}
	return 0
}

// mounts lists the mount points of this process.
func mounts() string {
	info, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return err.Error()
	}
	var points strings.Builder
	for line := range strings.Lines(string(info)) {
		if fields := strings.Fields(line); len(fields) > 5 {
			points.WriteString(fields[4] + " " + fields[5] + "\n")
		}
	}
	return points.String()
}
