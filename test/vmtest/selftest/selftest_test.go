//go:build vmtest

package selftest

import (
	"net"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
)

func TestRunsAsRootBelowInit(t *testing.T) {
	if os.Getuid() != 0 || os.Getppid() != 1 {
		t.Errorf("uid %d, parent %d", os.Getuid(), os.Getppid())
	}
}

func TestPivotRootWorks(t *testing.T) {
	dir := t.TempDir()
	// busybox unshare would need a fork; a shell does both.
	cmd := exec.Command("/bin/sh", "-ec", `
		mount -t tmpfs none "$1"
		mkdir "$1/old" "$1/bin"
		cp /bin/busybox "$1/bin/"
		pivot_root "$1" "$1/old"
		/bin/busybox umount -l /old
		/bin/busybox ls /`, "sh", dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
	out, err := cmd.CombinedOutput()
	if err != nil || strings.Join(strings.Fields(string(out)), " ") != "bin old" {
		t.Errorf("%v: %s", err, out)
	}
}

func TestAllCgroupControllersAreDelegated(t *testing.T) {
	have, err := os.ReadFile("/sys/fs/cgroup/cgroup.controllers")
	if err != nil {
		t.Fatal(err)
	}
	given, err := os.ReadFile("/sys/fs/cgroup/cgroup.subtree_control")
	if err != nil {
		t.Fatal(err)
	}
	if string(have) != string(given) {
		t.Errorf("controllers %q, delegated %q", have, given)
	}
	for _, c := range []string{"cpu", "cpuset", "memory", "pids", "io"} {
		if !slices.Contains(strings.Fields(string(given)), c) {
			t.Errorf("no controller %s", c)
		}
	}
}

func TestLoopbackIsUp(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
}

func TestShellAndTestdata(t *testing.T) {
	out, err := exec.Command("sh", "-c", "cat testdata/hello; id -u; hostname; test -c /dev/ptmx; test -c /dev/null").CombinedOutput()
	if err != nil || string(out) != "hello\n0\nvmtest\n" {
		t.Errorf("%v: %q", err, out)
	}
}
