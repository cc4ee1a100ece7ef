package guestspec

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/runtime-spec/specs-go"

	"kata/api/ocipb"
)

func minimal() *specs.Spec {
	return &specs.Spec{
		Version: "1.1.0",
		Root:    &specs.Root{Path: "rootfs", Readonly: true},
		Process: &specs.Process{Args: []string{"true"}, Cwd: "/"},
		Linux:   &specs.Linux{},
	}
}

func TestWhatTheGuestCannotHonourIsNamed(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(*specs.Spec)
		want   string
	}{
		{"no process", func(s *specs.Spec) { s.Process = nil }, "process is missing"},
		{"no command", func(s *specs.Spec) { s.Process.Args = nil }, "process.args"},
		{"relative working directory", func(s *specs.Spec) { s.Process.Cwd = "tmp" }, `process.cwd "tmp"`},
		{"unknown namespace", func(s *specs.Spec) {
			s.Linux.Namespaces = []specs.LinuxNamespace{{Type: "frobnicate"}}
		}, `linux.namespaces[0].type "frobnicate" is unknown`},
		{"the same namespace twice", func(s *specs.Spec) {
			s.Linux.Namespaces = []specs.LinuxNamespace{{Type: "mount"}, {Type: "mount"}}
		}, `linux.namespaces[1]: type "mount"`},
		{"user namespace of the host", func(s *specs.Spec) {
			s.Linux.Namespaces = []specs.LinuxNamespace{{Type: "user", Path: "/proc/1/ns/user"}}
		}, "/proc/1/ns/user"},
		{"relative mount destination", func(s *specs.Spec) {
			s.Mounts = []specs.Mount{{Destination: "data", Type: "tmpfs"}}
		}, `mounts[0].destination "data"`},
		{"relative bind source", func(s *specs.Spec) {
			s.Mounts = []specs.Mount{{Destination: "/data", Source: "data", Type: "bind"}}
		}, `mounts[0].source "data"`},
		{"device of no known type", func(s *specs.Spec) {
			s.Linux.Devices = []specs.LinuxDevice{{Path: "/dev/x", Type: "z"}}
		}, `linux.devices[0]: type "z"`},
		{"device access letters", func(s *specs.Spec) {
			s.Linux.Resources = &specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{{Access: "rwx"}}}
		}, `linux.resources.devices[0].access "rwx"`},
		{"a mount namespace of the host", func(s *specs.Spec) {
			s.Linux.Namespaces = []specs.LinuxNamespace{{Type: "mount", Path: "/proc/1/ns/mnt"}}
		}, "a mount namespace of the host (/proc/1/ns/mnt)"},
		{"a time namespace of the host", func(s *specs.Spec) {
			s.Linux.Namespaces = []specs.LinuxNamespace{{Type: "time", Path: "/proc/1/ns/time"}}
		}, "a time namespace of the host (/proc/1/ns/time)"},
		{"network devices of the host", func(s *specs.Spec) {
			s.Linux.NetDevices = map[string]specs.LinuxNetDevice{"eth7": {}}
		}, `linux.netDevices "eth7"`},
		{"a class of the processor's caches", func(s *specs.Spec) {
			s.Linux.IntelRdt = &specs.LinuxIntelRdt{ClosID: "gold"}
		}, `linux.intelRdt (closID "gold")`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			spec := minimal()
			tt.change(spec)
			_, err := Convert(spec, Options{Rootfs: "/r"})
			if err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("error %v, want one line with %q", err, tt.want)
			}
		})
	}
}

func TestNamespacesOfTheHostBecomeThePods(t *testing.T) {
	spec := minimal()
	spec.Linux.Namespaces = []specs.LinuxNamespace{
		{Type: "pid", Path: "/proc/7/ns/pid"}, {Type: "network", Path: "/run/netns/x"},
		{Type: "ipc", Path: "/proc/7/ns/ipc"}, {Type: "uts"}, {Type: "mount"}, {Type: "cgroup"},
	}
	out, err := Convert(spec, Options{Rootfs: "/r"})
	if err != nil {
		t.Fatal(err)
	}
	var kinds []string
	for _, n := range out.OCI.Linux.Namespaces {
		kinds = append(kinds, n.Type+n.Path)
	}
	if want := []string{"ipc", "uts", "mount", "cgroup"}; !cmp.Equal(kinds, want) {
		t.Errorf("namespaces %q, want %q", kinds, want)
	}
	if !out.SandboxPidns {
		t.Error("a pid namespace with a path does not join the pod's")
	}
}

func TestBindMountsOfTheHostAreSetApart(t *testing.T) {
	spec := minimal()
	spec.Mounts = []specs.Mount{
		{Destination: "/proc", Type: "proc", Source: "proc"},
		{Destination: "/dev/shm", Type: "bind", Source: "/run/x/shm", Options: []string{"rbind"}},
		{Destination: "/data", Type: "bind", Source: "/srv/./data", Options: []string{"rbind", "ro"}},
		{Destination: "/one", Type: "none", Source: "/srv/one", Options: []string{"bind"}},
		{Destination: "/dev/fuse", Type: "bind", Source: "/dev/fuse"},
	}
	out, err := Convert(spec, Options{Rootfs: "/r", SharedShm: "/guest/shm"})
	if err != nil {
		t.Fatal(err)
	}
	if len(out.OCI.Mounts) != len(spec.Mounts) {
		t.Fatalf("%d mounts, want %d in the same order", len(out.OCI.Mounts), len(spec.Mounts))
	}
	if got := out.OCI.Mounts[1].Source; got != "/guest/shm" {
		t.Errorf("/dev/shm comes from %q", got)
	}
	if got := out.OCI.Mounts[4].Source; got != "/dev/fuse" {
		t.Errorf("a device of the guest comes from %q", got)
	}
	if len(out.Binds) != 2 {
		t.Fatalf("%d bind mounts to share, want 2", len(out.Binds))
	}
	for i, want := range []Bind{
		{Source: "/srv/data", Readonly: true, Recursive: true, Mount: out.OCI.Mounts[2]},
		{Source: "/srv/one", Mount: out.OCI.Mounts[3]},
	} {
		if out.Binds[i] != want {
			t.Errorf("bind %d is %+v, want %+v", i, out.Binds[i], want)
		}
	}
}

func TestWhatHasNoEffectIsListed(t *testing.T) {
	spec := minimal()
	spec.Process.ApparmorProfile = "cri-default"
	spec.Linux.Seccomp = &specs.LinuxSeccomp{DefaultAction: "not even read"}
	out, err := Convert(spec, Options{Rootfs: "/r", DropSeccomp: true})
	if err != nil {
		t.Fatal(err)
	}
	all := strings.Join(out.Ignored, "; ")
	for _, want := range []string{"apparmorProfile cri-default", "linux.seccomp"} {
		if !strings.Contains(all, want) {
			t.Errorf("ignored parts %q lack %q", all, want)
		}
	}
}

func TestAProcessKeepsWhatTheSpecSays(t *testing.T) {
	adj, umask := 5, uint32(0o27)
	got, err := ConvertProcess(&specs.Process{
		Terminal: true, ConsoleSize: &specs.Box{Height: 24, Width: 80}, Args: []string{"id"}, Env: []string{"A=b"}, Cwd: "/tmp",
		User:            specs.User{UID: 1, GID: 2, Umask: &umask, AdditionalGids: []uint32{3}, Username: "u"},
		Capabilities:    &specs.LinuxCapabilities{Bounding: []string{"CAP_KILL"}, Ambient: []string{"CAP_CHOWN"}},
		Rlimits:         []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Hard: 9, Soft: 8}},
		NoNewPrivileges: true, OOMScoreAdj: &adj,
	})
	if err != nil {
		t.Fatal(err)
	}
	want := &ocipb.Process{
		Terminal: true, ConsoleSize: &ocipb.Box{Height: 24, Width: 80}, Args: []string{"id"}, Env: []string{"A=b"}, Cwd: "/tmp",
		User:            &ocipb.User{UID: 1, GID: 2, Umask: &umask, AdditionalGids: []uint32{3}, Username: "u"},
		Capabilities:    &ocipb.LinuxCapabilities{Bounding: []string{"CAP_KILL"}, Ambient: []string{"CAP_CHOWN"}},
		Rlimits:         []*ocipb.POSIXRlimit{{Type: "RLIMIT_NOFILE", Hard: 9, Soft: 8}},
		NoNewPrivileges: true, OOMScoreAdj: 5,
	}
	gotBytes, _ := got.MarshalVT()
	wantBytes, _ := want.MarshalVT()
	if string(gotBytes) != string(wantBytes) {
		t.Errorf("got %+v, want %+v", got, want)
	}
}
