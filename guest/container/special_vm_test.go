//go:build vmtest

package container

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"kata/api/ocipb"
	"kata/guest/container/plan"
	"kata/guest/fault"
)

func TestEveryNamespaceByPath(t *testing.T) {
	rt := testRuntime(t)
	a := sleeper(t, rt, privileged, func(s *ocipb.Spec) {
		addMount(&ocipb.Mount{Destination: "/only/here", Type: "tmpfs"})(s)
	})
	want := ""
	kinds := []struct{ kind, file string }{{"ipc", "ipc"}, {"uts", "uts"}, {"cgroup", "cgroup"}, {"network", "net"}, {"pid", "pid"}, {"mount", "mnt"}}
	spec := defaultSpec("/nowhere", "for n in ipc uts cgroup net pid mnt; do readlink /proc/self/ns/$n; done; ls -d /only/here; pwd; tty >/dev/null || echo no terminal")
	spec.Linux.Namespaces = nil
	for _, k := range kinds {
		path := fmt.Sprintf("/proc/%d/ns/%s", a.Init().PID(), k.file)
		id, err := os.Readlink(path)
		if err != nil {
			t.Fatal(err)
		}
		want += id + "\n"
		spec.Linux.Namespaces = append(spec.Linux.Namespaces, &ocipb.LinuxNamespace{Type: k.kind, Path: path})
	}
	want += "/only/here\n/\nno terminal\n"
	c, out := started(t, rt, spec)
	if status := wait(t, c.Init()); status != 0 && status != 1 {
		t.Errorf("status %d", status)
	}
	if got := out.String(); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	// It changed nothing of the other's.
	got, err := execIn(t, a, execProcess("ls -d /only/here; mount | wc -l"))
	if err != nil || !strings.HasPrefix(got.output, "/only/here\n") {
		t.Errorf("got %+v, %v", got, err)
	}
}

func TestUsersByName(t *testing.T) {
	rt := testRuntime(t)
	rootfs := makeRootfs(t)
	write(t, rootfs+"/etc/passwd", "root:x:0:0:root:/root:/bin/sh\nann:x:1000:1001::/home/ann:/bin/sh\n77:x:5:6::/x:/x\nbad:x:nonsense:1::/:/\n", 0o644)
	write(t, rootfs+"/etc/group", "root:x:0:\nstaff:x:50:ann,bob\nwheel:x:51:bob,ann\ndisk:x:6:\nnobodys:x:52:bobann\n", 0o644)
	for _, tt := range []struct {
		name  string
		names plan.Names
		want  string
	}{
		{"nothing", plan.Names{}, "7:8 9"},
		{"a user", plan.Names{User: "ann"}, "1000:1001 9 50 51"},
		{"a user by number", plan.Names{User: "1000"}, "1000:1001 9"},
		{"a number that nobody has", plan.Names{User: "4242"}, "4242:8 9"},
		{"a name of digits", plan.Names{User: "77"}, "5:6 9"},
		{"a user and a group", plan.Names{User: "ann", Group: "disk"}, "1000:6 9 50 51"},
		{"a group alone", plan.Names{Group: "51"}, "7:51 9"},
		{"further groups", plan.Names{User: "ann", Groups: []string{"wheel", "99"}}, "1000:1001 9 51 99"},
		{"no such user", plan.Names{User: "eve"}, `!string_user: the container has no user "eve"`},
		{"an entry that is broken", plan.Names{User: "bad"}, `!string_user: the container has no user "bad"`},
		{"no such group", plan.Names{Group: "eve"}, `!string_user: the container has no group "eve"`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			out := newOutput(t)
			spec := defaultSpec(rootfs, "echo $(id -u):$(id -g) $(grep Groups /proc/self/status | cut -f2)")
			spec.Process.User = &ocipb.User{UID: 7, GID: 8, AdditionalGids: []uint32{9}}
			c, err := createAs(testContext(t), rt, "names", spec, tt.names, Stdio{Stdout: out.write, Stderr: out.write}, Options{})
			out.write.Close()
			if want, ok := strings.CutPrefix(tt.want, "!"); ok {
				var refused *fault.Error
				if !errors.As(err, &refused) || err.Error() != want {
					t.Errorf("error %v, want %s", err, want)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			defer func() {
				if err := c.Destroy(testContext(t)); err != nil {
					t.Error(err)
				}
			}()
			if err := c.Start(testContext(t)); err != nil {
				t.Fatal(err)
			}
			if got := strings.TrimSpace(out.String()); got != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}
		})
	}
	t.Run("exec", func(t *testing.T) {
		c, _ := started(t, rt, defaultSpec(rootfs, "exec sleep 100000"))
		out := newOutput(t)
		p, err := execAs(testContext(t), c, "e", execProcess("id -u; echo $HOME"), plan.Names{User: "ann"}, Stdio{Stdout: out.write})
		out.write.Close()
		if err != nil {
			t.Fatal(err)
		}
		wait(t, p)
		if got := out.String(); got != "1000\n/home/ann\n" {
			t.Errorf("got %q", got)
		}
	})
}

// A container gets what another one has mounted, and keeps it.
func TestSharedMounts(t *testing.T) {
	rt := testRuntime(t)
	a, ready := started(t, rt, in(makeRootfs(t), "mkdir /data && mount -t tmpfs tmpfs /data && echo shared >/data/file && ln -s /data /link && ln -s ../../../../../.. /up && echo ready && exec sleep 100000", privileged))
	ready.waitFor(t, "ready")
	share := func(t *testing.T, path, script string, change func(*ocipb.Spec)) (result, error) {
		out := newOutput(t)
		defer out.write.Close()
		c, err := createSpec(testContext(t), rt, "dest", in(makeRootfs(t), script, change), Stdio{Stdout: out.write, Stderr: out.write},
			Options{Shared: []SharedMount{{Name: "data", Source: a, Path: path, Destination: "/from/a"}}})
		if err != nil {
			return result{}, err
		}
		defer func() {
			if err := c.Destroy(testContext(t)); err != nil {
				t.Error(err)
			}
		}()
		out.write.Close()
		err = c.Start(testContext(t))
		return result{wait(t, c.Init()), out.String()}, err
	}
	for _, path := range []string{"/data", "/link"} {
		got, err := share(t, path, "cat /from/a/file", nil)
		if err != nil || got.output != "shared\n" {
			t.Errorf("%s: %+v, %v", path, got, err)
		}
	}
	got, err := share(t, "/data", "cat /from/a/file; id -u", inUsers(t))
	if err != nil || got.output != "shared\n0\n" {
		t.Errorf("with users: %+v, %v", got, err)
	}
	if got, err := share(t, "/up", "ls /from/a/data", nil); err != nil || got.output != "file\n" {
		t.Errorf("a link up leads to %+v, %v", got, err)
	}
	if _, err := share(t, "/no/such", "true", nil); err == nil || !strings.Contains(err.Error(), "shared mount data: /no/such of container "+a.ID()) {
		t.Errorf("error %v", err)
	}
	if err := a.Destroy(testContext(t)); err != nil {
		t.Fatal(err)
	}
	if _, err := share(t, "/data", "true", nil); err == nil || !strings.Contains(err.Error(), ErrNotRunning.Error()) {
		t.Errorf("error %v", err)
	}
}

func TestExecAffinity(t *testing.T) {
	rt := testRuntime(t)
	c := sleeper(t, rt)
	for _, tt := range []struct{ initial, final, want string }{
		{"", "", "0-1"}, {"0", "1", "1"}, {"", "0-1", "0-1"}, {"1", "0", "0"}, {"0,1", "", "0-1"},
		{"", "4-7", "0-1"}, {"9", "701", "1"}, // of a host with more
	} {
		p := execProcess("grep Cpus_allowed_list /proc/self/status | cut -f2")
		p.ExecCPUAffinity = &ocipb.CPUAffinity{Initial: tt.initial, Final: tt.final}
		if got, err := execIn(t, c, p); err != nil || got.output != tt.want+"\n" {
			t.Errorf("%q and %q: %+v, %v", tt.initial, tt.final, got, err)
		}
	}
	for list, want := range map[string]string{
		"x":   `process.execCPUAffinity: "x" is not a list`,
		"3-1": `"3-1" is not a list`, "99999": `"99999" goes beyond`,
	} {
		p := execProcess("true")
		p.ExecCPUAffinity = &ocipb.CPUAffinity{Final: list}
		if _, err := execIn(t, c, p); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v, want %s", list, err, want)
		}
	}
}

func TestMemoryPolicyWithoutNUMA(t *testing.T) {
	rt := testRuntime(t)
	_, _, err := create(t, rt, in(makeRootfs(t), "true", func(s *ocipb.Spec) {
		s.Linux.MemoryPolicy = &ocipb.LinuxMemoryPolicy{Mode: "MPOL_BIND", Nodes: "0", Flags: []string{"MPOL_F_STATIC_NODES"}}
	}))
	if want := "linux.memoryPolicy MPOL_BIND: this kernel has no NUMA policies"; err == nil || err.Error() != want {
		t.Errorf("error %v, want %s", err, want)
	}
}
