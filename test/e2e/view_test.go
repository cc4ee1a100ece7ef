//go:build e2e

package e2e

import (
	"strconv"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// What a container sees of the guest's kernel has to be what it sees of a host's.

// What nobody has limited is as on a host, however small the guest.
func TestLimitsThatNobodySetAreThoseOfAHost(t *testing.T) {
	const script = `awk '/Max processes|Max pending signals|Max open files/ {print $(NF-2)}' /proc/self/limits
cd /proc/sys; cat kernel/threads-max kernel/pid_max user/max_user_namespaces fs/inotify/max_user_watches fs/file-max`
	least := []struct {
		name string
		most bool
		n    uint64
	}{
		{"soft limit of processes", false, 30000},
		{"soft limit of open files", true, 1 << 20},
		{"soft limit of pending signals", false, 30000},
		{"kernel.threads-max", false, 30000},
		{"kernel.pid_max", false, 1 << 15},
		{"user.max_user_namespaces", false, 30000},
		{"fs.inotify.max_user_watches", false, 1 << 16},
		{"fs.file-max", false, 1 << 20},
	}
	both(t, func(t *test) {
		r := t.succeed(t.fromSpec(func(s *specs.Spec) {
			s.Process.Args = []string{"/bin/sh", "-c", script}
			s.Process.Rlimits = nil
		}))
		lines := strings.Fields(r.Stdout)
		if len(lines) != len(least) {
			t.Fatalf("the container says %q", r.Stdout)
		}
		for i, want := range least {
			n, err := strconv.ParseUint(lines[i], 10, 64)
			if err != nil || want.most && n > want.n || !want.most && n < want.n {
				t.Errorf("%s: %s, bound %d (at most: %v)", want.name, lines[i], want.n, want.most)
			}
		}
	})
}

// Programs of the age of CentOS 6 call it for the time.
func TestThereIsAVsyscallPage(t *testing.T) {
	const script = "grep -c vsyscall /proc/self/maps"
	kata(t, "as the distributions have it", func(t *test) { t.wantOutput(t.succeed(t.sh(script)), "1\n", "") })
	kata(t, "none, if the operator wants none", func(t *test) {
		c := t.withConfig(t.sh(script+"; true"), map[string]string{"kernel_params": strconv.Quote("vsyscall=none")})
		t.wantOutput(t.succeed(c), "0\n", "")
	})
}

// Drivers that are built into the kernel make devices that nobody has asked for.
func TestThereAreNoNetworkDevicesThatNobodyGave(t *testing.T) {
	const script = "ls /sys/class/net; ip -o link | wc -l"
	both(t, func(t *test) { t.wantOutput(t.succeed(t.sh(script)), "lo\n1\n", "") })
	kata(t, "nor in a namespace made in the container", func(t *test) {
		c := t.sh("unshare -n ip -o link | wc -l")
		c.Flags = []string{"--privileged"}
		t.wantOutput(t.succeed(c), "1\n", "")
	})
	kata(t, "nor with a kernel that was told to make some", func(t *test) {
		c := t.withConfig(t.sh("ls /sys/class/net"), map[string]string{"kernel_params": strconv.Quote("dummy.numdummies=3")})
		t.wantOutput(t.succeed(c), "lo\n", "")
	})
}
