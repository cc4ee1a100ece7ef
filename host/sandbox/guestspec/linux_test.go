package guestspec

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"kata/api/ocipb"
	"kata/host/seccomp"
)

func TestASeccompProfileIsCompiled(t *testing.T) {
	errno, fallback := uint(38), uint(13)
	profile := &specs.LinuxSeccomp{
		DefaultAction: specs.ActErrno, DefaultErrnoRet: &fallback,
		Architectures: []specs.Arch{specs.ArchX86_64, specs.ArchAARCH64},
		Flags:         []specs.LinuxSeccompFlag{specs.LinuxSeccompFlagLog},
		ListenerPath:  "/run/listener",
		Syscalls: []specs.LinuxSyscall{
			{Names: []string{"read", "frobnicate"}, Action: specs.ActAllow},
			{Names: []string{"mkdir"}, Action: specs.ActErrno, ErrnoRet: &errno, Args: []specs.LinuxSeccompArg{
				{Index: 1, Value: 0o111, ValueTwo: 7, Op: specs.OpMaskedEqual},
			}},
		},
	}
	spec := minimal()
	spec.Linux.Seccomp = profile
	out, err := Convert(spec, Options{Rootfs: "/r"})
	if err != nil {
		t.Fatal(err)
	}
	got := out.OCI.Linux.Seccomp
	compiled, err := seccomp.Compile(profile)
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Filters) == 0 || !cmp.Equal(got.Filters, compiled.Filters) || got.FilterFlags != unix.SECCOMP_FILTER_FLAG_LOG {
		t.Errorf("%d programs and flags %#x are not what the compiler makes", len(got.Filters), got.FilterFlags)
	}
	n, m := uint32(38), uint32(13)
	want := &ocipb.LinuxSeccomp{
		DefaultAction: "SCMP_ACT_ERRNO", DefaultErrnoRet: &m, Flags: []string{"SECCOMP_FILTER_FLAG_LOG"},
		Architectures: []string{"SCMP_ARCH_X86_64", "SCMP_ARCH_AARCH64"},
		Syscalls: []*ocipb.LinuxSyscall{
			{Names: []string{"read", "frobnicate"}, Action: "SCMP_ACT_ALLOW"},
			{Names: []string{"mkdir"}, Action: "SCMP_ACT_ERRNO", Errnoret: &n, Args: []*ocipb.LinuxSeccompArg{
				{Index: 1, Value: 0o111, ValueTwo: 7, Op: "SCMP_CMP_MASKED_EQ"},
			}},
		},
	}
	got.Filters, got.FilterFlags = nil, 0
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the profile for people is another:\n%s", diff)
	}
	all := strings.Join(out.Ignored, "; ")
	for _, part := range []string{`system call "frobnicate"`, "SCMP_ARCH_AARCH64", "linux.seccomp.listenerPath /run/listener"} {
		if !strings.Contains(all, part) {
			t.Errorf("ignored parts %q lack %q", all, part)
		}
	}
}

func TestAProfileOfNothingRestrictsNothing(t *testing.T) {
	spec := minimal()
	spec.Linux.Seccomp = &specs.LinuxSeccomp{}
	out, err := Convert(spec, Options{Rootfs: "/r"})
	if err != nil || out.OCI.Linux.Seccomp != nil {
		t.Errorf("an empty profile became %+v, %v", out.OCI.Linux.Seccomp, err)
	}
}

func TestASeccompProfileThatCannotBeAppliedIsRefused(t *testing.T) {
	big := uint(5000)
	for _, tt := range []struct {
		name    string
		profile specs.LinuxSeccomp
		want    string
	}{
		{"an action that is none", specs.LinuxSeccomp{DefaultAction: "SCMP_ACT_JUMP"},
			`spec: linux.seccomp profile: defaultAction "SCMP_ACT_JUMP" is unknown`},
		{"a rule without names", specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Syscalls: []specs.LinuxSyscall{{Action: specs.ActKill}}},
			"syscalls[0].names is empty"},
		{"an errno that is none", specs.LinuxSeccomp{DefaultAction: specs.ActErrno, DefaultErrnoRet: &big}, "defaultErrnoRet 5000"},
		{"a listener, which would be on the host", specs.LinuxSeccomp{
			DefaultAction: specs.ActAllow, ListenerPath: "/run/listener",
			Syscalls: []specs.LinuxSyscall{{Names: []string{"mkdir"}, Action: specs.ActNotify}},
		}, `linux.seccomp.listenerPath "/run/listener"`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			spec := minimal()
			spec.Linux.Seccomp = &tt.profile
			_, err := Convert(spec, Options{Rootfs: "/r"})
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want %q", err, tt.want)
			}
			if _, err := Convert(spec, Options{Rootfs: "/r", DropSeccomp: true}); err != nil {
				t.Errorf("a profile to be dropped is read: %v", err)
			}
		})
	}
}

func TestUserAndTimeNamespacesAreMadeInTheGuest(t *testing.T) {
	spec := minimal()
	spec.Linux.UIDMappings = []specs.LinuxIDMapping{{ContainerID: 0, HostID: 100000, Size: 65536}}
	spec.Linux.GIDMappings = []specs.LinuxIDMapping{{ContainerID: 0, HostID: 200000, Size: 65536}}
	spec.Linux.TimeOffsets = map[string]specs.LinuxTimeOffset{"monotonic": {Secs: -5, Nanosecs: 7}}
	spec.Linux.MemoryPolicy = &specs.LinuxMemoryPolicy{Mode: "MPOL_BIND", Nodes: "0", Flags: []specs.MemoryPolicyFlagType{"MPOL_F_STATIC_NODES"}}
	for name, path := range map[string]string{"of its own": "", "the pod's, whose mappings are given": "/proc/77/ns/user"} {
		t.Run(name, func(t *testing.T) {
			spec.Linux.Namespaces = []specs.LinuxNamespace{{Type: "user", Path: path}, {Type: "time"}}
			out, err := Convert(spec, Options{Rootfs: "/r"})
			if err != nil {
				t.Fatal(err)
			}
			want := &ocipb.Linux{
				UIDMappings:  []*ocipb.LinuxIDMapping{{HostID: 100000, Size: 65536}},
				GIDMappings:  []*ocipb.LinuxIDMapping{{HostID: 200000, Size: 65536}},
				Namespaces:   []*ocipb.LinuxNamespace{{Type: "user"}, {Type: "time"}},
				TimeOffsets:  map[string]*ocipb.LinuxTimeOffset{"monotonic": {Secs: -5, Nanosecs: 7}},
				MemoryPolicy: &ocipb.LinuxMemoryPolicy{Mode: "MPOL_BIND", Nodes: "0", Flags: []string{"MPOL_F_STATIC_NODES"}},
			}
			if diff := cmp.Diff(want, out.OCI.Linux); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestSchedulingIsTheProcesss(t *testing.T) {
	got, err := ConvertProcess(&specs.Process{
		Args: []string{"id"}, IOPriority: &specs.LinuxIOPriority{Class: specs.IOPRIO_CLASS_BE, Priority: 3},
		Scheduler:       &specs.Scheduler{Policy: specs.SchedBatch, Nice: 5, Flags: []specs.LinuxSchedulerFlag{specs.SchedFlagResetOnFork}},
		ExecCPUAffinity: &specs.CPUAffinity{Initial: "0", Final: "0-1"},
	})
	if err != nil {
		t.Fatal(err)
	}
	switch {
	case got.IOPriority.Class != "IOPRIO_CLASS_BE" || got.IOPriority.Priority != 3:
		t.Errorf("i/o priority %+v", got.IOPriority)
	case got.Scheduler.Policy != "SCHED_BATCH" || got.Scheduler.Nice != 5 || !slices.Equal(got.Scheduler.Flags, []string{"SCHED_FLAG_RESET_ON_FORK"}):
		t.Errorf("scheduler %+v", got.Scheduler)
	case got.ExecCPUAffinity.Initial != "0" || got.ExecCPUAffinity.Final != "0-1":
		t.Errorf("affinity %+v", got.ExecCPUAffinity)
	}
}
