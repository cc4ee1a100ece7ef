//go:build e2e

package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// What a container may see and do: each case is a script whose output runc has
// confirmed.
func TestContainerGetsWhatItsSpecSays(t *testing.T) {
	tests := []struct {
		name   string
		image  string
		flags  []string
		script string
		want   string
	}{
		{
			name:  "the image's user, environment and working directory",
			image: asUser,
			want:  "1000:1000 good morning /home/tester\n",
		},
		{
			name:   "supplementary groups of the user",
			image:  asUser,
			script: "id -G",
			want:   "1000 2000\n",
		},
		{
			name:   "environment and working directory of the command line",
			flags:  []string{"--env", "COLOUR=blue", "--cwd", "/tmp"},
			script: `echo "$COLOUR $PWD"`,
			want:   "blue /tmp\n",
		},
		{
			name:   "a working directory that does not exist yet",
			flags:  []string{"--cwd", "/made/for/this"},
			script: "pwd",
			want:   "/made/for/this\n",
		},
		{
			name:   "a root file system that can be written",
			script: "echo kept >/file; cat /file",
			want:   "kept\n",
		},
		{
			// The image has no /run to mount on, so that one must be made first.
			name:   "a read-only root file system",
			flags:  []string{"--read-only"},
			script: "echo lost 2>/dev/null >/file || echo refused",
			want:   "refused\n",
		},
		{
			name:   "PID 1 in a namespace of its own",
			script: "echo $$",
			want:   "1\n",
		},
		{
			name:   "the default capabilities and no more",
			script: "grep CapEff /proc/self/status",
			want:   "CapEff:\t00000000a80425fb\n",
		},
		{
			name:   "a capability added and one dropped",
			flags:  []string{"--cap-add", "CAP_SYS_TIME", "--cap-drop", "CAP_CHOWN"},
			script: "grep CapEff /proc/self/status",
			want:   "CapEff:\t00000000aa0425fa\n",
		},
		{
			name:   "no new privileges",
			script: "grep NoNewPrivs /proc/self/status",
			want:   "NoNewPrivs:\t1\n",
		},
		{
			name:   "new privileges when allowed",
			flags:  []string{"--allow-new-privs"},
			script: "grep NoNewPrivs /proc/self/status",
			want:   "NoNewPrivs:\t0\n",
		},
		{
			name:   "the limit of open files",
			script: "ulimit -n; ulimit -H -n",
			want:   "1024\n1024\n",
		},
		{
			name:   "masked paths",
			script: "cat /proc/timer_list /proc/sched_debug 2>/dev/null | wc -c; ls /sys/firmware | wc -l",
			want:   "0\n0\n",
		},
		{
			name:   "read-only paths",
			script: "echo x 2>/dev/null >/proc/sysrq-trigger || echo refused; touch /proc/sys/kernel/x 2>/dev/null || echo refused",
			want:   "refused\nrefused\n",
		},
		{
			name:   "the default devices",
			script: "for d in null zero full random urandom tty; do test -c /dev/$d && echo $d; done; for l in fd stdin ptmx; do readlink /dev/$l; done",
			want:   "null\nzero\nfull\nrandom\nurandom\ntty\n/proc/self/fd\n/proc/self/fd/0\npts/ptmx\n",
		},
		{
			name:   "the mounts of every container",
			script: `for m in /proc /dev /dev/pts /dev/shm /dev/mqueue /sys /run; do grep -q " $m " /proc/self/mountinfo && echo $m; done`,
			want:   "/proc\n/dev\n/dev/pts\n/dev/shm\n/dev/mqueue\n/sys\n/run\n",
		},
		{
			name:   "a loopback device that is up and no other that is",
			script: "cd /sys/class/net; for d in *; do [ $(($(cat $d/flags) & 1)) = 1 ] && echo $d; done; ping -c 1 -q 127.0.0.1 >/dev/null && echo answers",
			want:   "lo\nanswers\n",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			both(t, func(t *test) {
				c := t.container()
				if tt.script != "" {
					c.Args = []string{"/bin/sh", "-c", tt.script}
				}
				if tt.image != "" {
					c.Image = tt.image
				}
				c.Flags = tt.flags
				r := t.succeed(c)
				t.wantOutput(r, tt.want, "")
			})
		})
	}
}

func TestExecGetsUserAndDirectory(t *testing.T) {
	both(t, func(t *test) {
		id := t.detach(t.sh("exec sleep 1000"))
		r := t.ctr("tasks", "exec", "--exec-id", "e1", "--user", "tester", "--cwd", "/home/tester", id, "/bin/sh", "-c", `echo "$(id -u) $(pwd)"`)
		t.wantOutput(r, "1000 /home/tester\n", "")
	})
}

func TestBindMountsAreSeenAndTheirModeKept(t *testing.T) {
	both(t, func(t *test) {
		dir := t.TempDir()
		for _, d := range []string{"rw", "ro"} {
			if err := os.Mkdir(filepath.Join(dir, d), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		for name, content := range map[string]string{"ro/a": "from the host\n", "file": "one file\n"} {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		c := t.sh("cat /ro/a /one; echo from the guest >/rw/b; touch /ro/c 2>/dev/null || echo refused")
		c.Flags = []string{
			"--mount", "type=bind,src=" + dir + "/rw,dst=/rw,options=rbind:rw",
			"--mount", "type=bind,src=" + dir + "/ro,dst=/ro,options=rbind:ro",
			"--mount", "type=bind,src=" + dir + "/file,dst=/one,options=rbind:ro",
		}
		t.wantOutput(t.succeed(c), "from the host\none file\nrefused\n", "")
		b, err := os.ReadFile(filepath.Join(dir, "rw", "b"))
		if err != nil || string(b) != "from the guest\n" {
			t.Errorf("the host reads %q, %v", b, err)
		}
		if entries, err := os.ReadDir(filepath.Join(dir, "ro")); err != nil || len(entries) != 1 {
			t.Errorf("the read-only directory holds %v, %v", entries, err)
		}
	})
}

func TestMemoryLimitHolds(t *testing.T) {
	both(t, func(t *test) {
		// dd takes its block in one piece, and reading fills it.
		c := t.sh("dd if=/dev/zero bs=100M count=1 >/dev/null 2>&1; echo $?")
		c.Flags = []string{"--memory-limit", "33554432"}
		t.wantOutput(t.succeed(c), "137\n", "")
	})
}

func TestTwoHundredProcessesFitInAContainer(t *testing.T) {
	both(t, func(t *test) {
		r := t.succeed(t.sh("for i in $(seq 200); do sleep 1000 & done; ls -d /proc/[0-9]* | wc -l"))
		if n := strings.TrimSpace(r.Stdout); len(n) != 3 || n < "201" {
			t.Errorf("%q processes, want more than 200", n)
		}
	})
}

// ctr has no flags for these: they come with a spec of the test's own.
func TestContainerGetsWhatAHandWrittenSpecSays(t *testing.T) {
	tests := []struct {
		name   string
		change func(*specs.Spec)
		script string
		want   string
	}{
		{
			name:   "hostname",
			change: func(s *specs.Spec) { s.Hostname = "somewhere" },
			script: "hostname; uname -n",
			want:   "somewhere\nsomewhere\n",
		},
		{
			name: "a limit on the number of processes",
			change: func(s *specs.Spec) {
				limit := int64(5)
				s.Linux.Resources.Pids = &specs.LinuxPids{Limit: &limit}
			},
			script: "for i in 1 2 3 4 5 6; do sleep 1000 & done 2>/dev/null; echo only when it could fork",
			want:   "",
		},
		{
			name: "resource limits",
			change: func(s *specs.Spec) {
				s.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: 77, Hard: 99}, {Type: "RLIMIT_CORE", Soft: 0, Hard: 0}}
			},
			script: "ulimit -n; ulimit -H -n; ulimit -c",
			want:   "77\n99\n0\n",
		},
		{
			name: "user, group and umask",
			change: func(s *specs.Spec) {
				umask := uint32(0o27)
				s.Process.User = specs.User{UID: 7, GID: 8, AdditionalGids: []uint32{9, 10}, Umask: &umask}
			},
			script: "id -u; id -g; id -G; umask",
			want:   "7\n8\n8 9 10\n0027\n",
		},
		{
			name: "a tmpfs with a size",
			change: func(s *specs.Spec) {
				s.Mounts = append(s.Mounts, specs.Mount{Destination: "/small", Type: "tmpfs", Source: "tmpfs", Options: []string{"size=64k", "nosuid"}})
			},
			script: "dd if=/dev/zero of=/small/file bs=1k count=100 2>/dev/null; wc -c </small/file",
			want:   "65536\n",
		},
		{
			name: "sysctls",
			change: func(s *specs.Spec) {
				s.Linux.Sysctl = map[string]string{"kernel.msgmax": "4321"}
			},
			script: "cat /proc/sys/kernel/msgmax",
			want:   "4321\n",
		},
		{
			name: "no environment but its own and a home",
			change: func(s *specs.Spec) {
				s.Process.Env = []string{"PATH=/bin", "ONE=1"}
			},
			script: "env | sort | grep -v -e PWD -e SHLVL",
			want:   "HOME=/root\nONE=1\nPATH=/bin\n",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			both(t, func(t *test) {
				c := t.fromSpec(func(s *specs.Spec) {
					s.Process.Args = []string{"/bin/sh", "-c", tt.script}
					tt.change(s)
				})
				r := node.Run(t.ctx, c)
				if r.Stdout != tt.want {
					t.Errorf("stdout %q, want %q; %v", r.Stdout, tt.want, r.Failure())
				}
			})
		})
	}
}
