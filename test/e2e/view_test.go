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

// Clients write mounts of type cgroup, and on a host with cgroup v1 no namespace
// for it. The guest has v2.
func TestAContainerSeesItsOwnCgroup(t *testing.T) {
	const script = "cat /proc/self/cgroup; cd /sys/fs/cgroup; cat memory.max cpu.max; grep -cx $$ cgroup.procs; echo max 2>/dev/null >memory.max || echo refused"
	const want = "0::/\n134217728\n50000 100000\n1\nrefused\n"
	kata(t, "limits of the command line", func(t *test) {
		c := t.sh(script)
		c.Flags = []string{
			"--memory-limit", "134217728", "--cpu-quota", "50000", "--cpu-period", "100000",
			"--mount", "type=cgroup,src=cgroup,dst=/sys/fs/cgroup,options=ro:nosuid:noexec:nodev",
		}
		t.wantOutput(t.succeed(c), want, "")
	})
	kata(t, "with a namespace of its own", func(t *test) {
		c := t.fromSpec(func(s *specs.Spec) {
			memory, quota := int64(128<<20), int64(50000)
			s.Process.Args = []string{"/bin/sh", "-c", script}
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: []string{"ro"}})
			s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.CgroupNamespace})
			s.Linux.Resources.Memory = &specs.LinuxMemory{Limit: &memory}
			s.Linux.Resources.CPU = &specs.LinuxCPU{Quota: &quota}
		})
		t.wantOutput(t.succeed(c), want, "")
	})
	kata(t, "writable if asked for", func(t *test) {
		c := t.sh("mkdir /sys/fs/cgroup/mine && echo $$ >/sys/fs/cgroup/mine/cgroup.procs && cat /proc/self/cgroup")
		c.Flags = []string{"--privileged", "--mount", "type=cgroup,src=cgroup,dst=/sys/fs/cgroup,options=rw:nosuid:noexec:nodev"}
		t.wantOutput(t.succeed(c), "0::/mine\n", "")
	})
}

// A pids limit that was hit is no reason for an exec to fail. With runc that holds
// when there is room again; ours gets in even when there is none.
func TestExecAfterAPidsLimitWasHit(t *testing.T) {
	execs := func(t *test, script string) {
		limit := int64(20)
		c := t.fromSpec(func(s *specs.Spec) {
			s.Process.Args = []string{"/bin/sh", "-c", script}
			s.Linux.Resources.Pids = &specs.LinuxPids{Limit: &limit}
		})
		run := node.Begin(t.ctx, c)
		t.awaitOutput(run.Stdout, "ready")
		for i := range 3 {
			t.wantCode(t.exec(c.ID, "e"+strconv.Itoa(i), "true"), 0)
		}
		t.ctr("tasks", "kill", "--signal", "SIGKILL", c.ID)
		t.wantCode(run.Wait(), 137)
	}
	both(t, func(t *test) {
		execs(t, "mkfifo /f; exec 3<>/f; (while sleep 1 & do :; done) 2>/dev/null; read -t 3 x <&3; echo ready; exec sleep 1000")
	})
	kata(t, "while all of it is used", func(t *test) {
		execs(t, "(while sleep 1000 & do :; done) 2>/dev/null; echo ready; exec sleep 1000")
	})
}

// The numbers of processors and memory nodes are the host's.
func TestACpusetOfTheHostIsPassedOn(t *testing.T) {
	both(t, func(t *test) {
		c := t.fromSpec(func(s *specs.Spec) {
			s.Process.Args = []string{"echo", "started"}
			s.Linux.Resources.CPU = &specs.LinuxCPU{Cpus: "0-1", Mems: "0"}
		})
		t.wantOutput(t.succeed(c), "started\n", "")
	})
	kata(t, "as far as the guest has them", func(t *test) {
		limit := map[string]string{"default_vcpus": "2", "default_maxvcpus": "2"}
		for cpus, want := range map[string]string{"0-1": "0-1", "6": "0", "5": "1", "2-7": "0-1"} {
			c := t.withConfig(t.fromSpec(func(s *specs.Spec) {
				s.Process.Args = []string{"/bin/sh", "-c", "grep -e Cpus_allowed_list -e Mems_allowed_list /proc/self/status | cut -f 2"}
				s.Linux.Resources.CPU = &specs.LinuxCPU{Cpus: cpus, Mems: "0-1"}
			}), limit)
			t.wantOutput(t.succeed(c), want+"\n0\n", "")
		}
	})
}

// createContainer and startContainer are the hooks that run where the container
// is; the guest has no programs of the host's.
func TestHooksOfTheContainersNamespaces(t *testing.T) {
	both(t, func(t *test) {
		c := t.fromSpec(func(s *specs.Spec) {
			s.Process.Args = []string{"cat", "/noted"}
			s.Hooks = &specs.Hooks{StartContainer: []specs.Hook{{
				Path: "/bin/sh", Args: []string{"sh", "-c", `sed 's/.*"status":"\([^"]*\)".*/\1/' >/noted`}, Env: []string{"PATH=/bin"},
			}}}
		})
		t.wantOutput(t.succeed(c), "created", "")
	})
	both(t, func(t *test) {
		c := t.fromSpec(func(s *specs.Spec) {
			s.Process.Args = []string{"echo", "started"}
			s.Hooks = &specs.Hooks{StartContainer: []specs.Hook{{Path: "/no/such/hook"}}}
		})
		if r := node.Run(t.ctx, c); r.Code == 0 || r.Stdout != "" || !strings.Contains(r.Stderr, "/no/such/hook: no such file or directory") {
			t.Errorf("status %d, %q, %q", r.Code, r.Stdout, r.Stderr)
		}
	})
	kata(t, "a program of the host", func(t *test) {
		c := t.fromSpec(func(s *specs.Spec) {
			s.Process.Args = []string{"echo", "started"}
			s.Hooks = &specs.Hooks{CreateContainer: []specs.Hook{{Path: "/usr/bin/false"}}}
		})
		t.wantOutput(t.succeed(c), "started\n", "")
	})
}
