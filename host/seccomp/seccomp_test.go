package seccomp

import (
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// one is a profile with one entry; everything else is allowed.
func one(s specs.LinuxSyscall) *specs.LinuxSeccomp {
	return &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Architectures: []specs.Arch{specs.ArchX86, specs.ArchX32},
		Syscalls: []specs.LinuxSyscall{s}}
}

func TestActions(t *testing.T) {
	for _, test := range []struct {
		is     string
		action specs.LinuxSeccompAction
		errno  *uint
		want   uint32
	}{
		{"kill ends the thread", specs.ActKill, nil, unix.SECCOMP_RET_KILL_THREAD},
		{"kill thread ends the thread", specs.ActKillThread, nil, unix.SECCOMP_RET_KILL_THREAD},
		{"kill process ends the process", specs.ActKillProcess, nil, unix.SECCOMP_RET_KILL_PROCESS},
		{"trap signals", specs.ActTrap, nil, unix.SECCOMP_RET_TRAP},
		{"errno is EPERM unless said", specs.ActErrno, nil, errno(unix.EPERM)},
		{"errno is what is said", specs.ActErrno, pointer(99), errno(99)},
		{"errno 0 is success without a call", specs.ActErrno, pointer(0), unix.SECCOMP_RET_ERRNO},
		{"trace tells the tracer EPERM unless said", specs.ActTrace, nil, unix.SECCOMP_RET_TRACE | 1},
		{"trace tells the tracer what is said", specs.ActTrace, pointer(65535), unix.SECCOMP_RET_TRACE | 65535},
		{"log allows and logs", specs.ActLog, nil, unix.SECCOMP_RET_LOG},
		{"notify asks the listener", specs.ActNotify, nil, unix.SECCOMP_RET_USER_NOTIF},
	} {
		t.Run(test.is, func(t *testing.T) {
			profile := one(specs.LinuxSyscall{Names: []string{"mkdir"}, Action: test.action, ErrnoRet: test.errno})
			profile.ListenerPath = "/run/listener"
			m := compile(t, profile)
			for _, where := range []abi{x8664, i386, x32} {
				if got := m.run(t, on(t, where, "mkdir")); got != test.want {
					t.Errorf("abi %d: %#x, not %#x", where, got, test.want)
				}
				if got := m.run(t, on(t, where, "rmdir")); got != unix.SECCOMP_RET_ALLOW {
					t.Errorf("abi %d: another call gets %#x", where, got)
				}
			}
			if test.action == specs.ActNotify {
				return // cannot be the default
			}
			m = compile(t, &specs.LinuxSeccomp{DefaultAction: test.action, DefaultErrnoRet: test.errno,
				Syscalls: []specs.LinuxSyscall{{Names: []string{"rmdir"}, Action: specs.ActAllow}}})
			if got := m.run(t, on(t, x8664, "mkdir")); got != test.want {
				t.Errorf("as the default action: %#x, not %#x", got, test.want)
			}
		})
	}
}

func TestOperators(t *testing.T) {
	const value = 0x5_0000_0007
	for _, test := range []struct {
		is         string
		op         specs.LinuxSeccompOperator
		value, two uint64
		yes, no    []uint64
	}{
		{"equal compares all 64 bits", specs.OpEqualTo, value, 0, []uint64{value}, []uint64{7, 0x5_0000_0006, 0x5_0000_0008, 0x4_0000_0007, 0x6_0000_0007, 0}},
		{"not equal is true for any other", specs.OpNotEqual, value, 0, []uint64{7, 0x4_0000_0007, 0x5_0000_0008, 0, ^uint64(0)}, []uint64{value}},
		{"less than excludes the value", specs.OpLessThan, value, 0, []uint64{0, 8, 0x4_ffff_ffff, value - 1}, []uint64{value, value + 1, 0x6_0000_0000, ^uint64(0)}},
		{"less or equal includes the value", specs.OpLessEqual, value, 0, []uint64{0, 8, 0x4_ffff_ffff, value}, []uint64{value + 1, 0x6_0000_0000, ^uint64(0)}},
		{"greater than excludes the value", specs.OpGreaterThan, value, 0, []uint64{value + 1, 0x6_0000_0000, ^uint64(0)}, []uint64{0, 8, 0x4_ffff_ffff, value}},
		{"greater or equal includes the value", specs.OpGreaterEqual, value, 0, []uint64{value, 0x6_0000_0000, ^uint64(0)}, []uint64{0, 8, 0x4_ffff_ffff, value - 1}},
		{"nothing is less than 0", specs.OpLessThan, 0, 0, nil, []uint64{0, 1, 1 << 32, ^uint64(0)}},
		{"all are at least 0", specs.OpGreaterEqual, 0, 0, []uint64{0, 1, 1 << 32, ^uint64(0)}, nil},
		{"masked equal looks at the bits of value", specs.OpMaskedEqual, 0xff00_0000_0000_ff00, 0x1200_0000_0000_3400, []uint64{0x1200_0000_0000_3400, 0x12ff_ffff_ffff_34ff}, []uint64{0x1300_0000_0000_3400, 0x1200_0000_0000_3500, 0}},
		{"masked equal with a mask in the lower half", specs.OpMaskedEqual, 0x7e020000, 0, []uint64{0, 0x11, 0xffff_ffff_0000_0011}, []uint64{0x20000, 0x10000000}},
		{"masked equal with a mask in the upper half", specs.OpMaskedEqual, 1 << 40, 1 << 40, []uint64{1 << 40, 3<<40 | 5}, []uint64{0, 1 << 39}},
		{"bits of valueTwo outside the mask do not count", specs.OpMaskedEqual, 0xf, 0xff, []uint64{0xf, 0x2f}, []uint64{0, 0xff0}},
		{"a mask of 0 is true for all", specs.OpMaskedEqual, 0, 5, []uint64{0, 5, ^uint64(0)}, nil},
	} {
		t.Run(test.is, func(t *testing.T) {
			for index := range uint(6) {
				m := compile(t, one(specs.LinuxSyscall{Names: []string{"mmap"}, Action: specs.ActErrno,
					Args: []specs.LinuxSeccompArg{{Index: index, Op: test.op, Value: test.value, ValueTwo: test.two}}}))
				check := func(want uint32, values []uint64) {
					for _, v := range values {
						c := on(t, x8664, "mmap", ^v, ^v, ^v, ^v, ^v, ^v)
						c.args[index] = v
						if got := m.run(t, c); got != want {
							t.Errorf("argument %d, %#x: %#x, not %#x", index, v, got, want)
						}
					}
				}
				check(errno(unix.EPERM), test.yes)
				check(unix.SECCOMP_RET_ALLOW, test.no)
			}
		})
	}
}

func TestRules(t *testing.T) {
	allow := func(name string, args ...specs.LinuxSeccompArg) specs.LinuxSyscall {
		return specs.LinuxSyscall{Names: []string{name}, Action: specs.ActAllow, Args: args}
	}
	kill := func(name string, args ...specs.LinuxSeccompArg) specs.LinuxSyscall {
		return specs.LinuxSyscall{Names: []string{name}, Action: specs.ActKillProcess, Args: args}
	}
	is := func(index uint, op specs.LinuxSeccompOperator, value uint64) specs.LinuxSeccompArg {
		return specs.LinuxSeccompArg{Index: index, Op: op, Value: value}
	}
	const (
		yes  = unix.SECCOMP_RET_ALLOW
		no   = unix.SECCOMP_RET_ERRNO | 1
		dead = unix.SECCOMP_RET_KILL_PROCESS
	)
	eq, ge, le := specs.OpEqualTo, specs.OpGreaterEqual, specs.OpLessEqual
	for _, test := range []struct {
		is    string
		rules []specs.LinuxSyscall
		want  map[[3]uint64]uint32 // by arguments
	}{
		{"conditions of a rule must all hold", []specs.LinuxSyscall{allow("mmap", is(0, eq, 1), is(2, ge, 5))},
			map[[3]uint64]uint32{{1, 0, 5}: yes, {1, 0, 4}: no, {2, 0, 5}: no}},
		{"rules for a call are alternatives", []specs.LinuxSyscall{allow("mmap", is(0, eq, 1)), allow("mmap", is(1, eq, 2))},
			map[[3]uint64]uint32{{1, 0, 0}: yes, {0, 2, 0}: yes, {1, 2, 0}: yes, {0, 1, 0}: no}},
		{"conditions on the same argument are alternatives", []specs.LinuxSyscall{allow("mmap", is(0, eq, 1), is(0, eq, 3), is(1, eq, 9))},
			map[[3]uint64]uint32{{1, 0, 0}: yes, {3, 0, 0}: yes, {0, 9, 0}: yes, {2, 0, 0}: no}},
		{"a rule without conditions prevails over later ones", []specs.LinuxSyscall{allow("mmap"), kill("mmap", is(0, eq, 1)), kill("mmap")},
			map[[3]uint64]uint32{{0, 0, 0}: yes, {1, 0, 0}: yes}},
		{"a rule without conditions prevails over earlier ones with", []specs.LinuxSyscall{kill("mmap", is(0, eq, 1)), allow("mmap")},
			map[[3]uint64]uint32{{0, 0, 0}: yes, {1, 0, 0}: yes}},
		{"of rules with conditions the first prevails", []specs.LinuxSyscall{kill("mmap", is(0, le, 5)), allow("mmap", is(0, ge, 5))},
			map[[3]uint64]uint32{{4, 0, 0}: dead, {5, 0, 0}: dead, {6, 0, 0}: yes}},
		{"a rule that says what the default action says is left out", []specs.LinuxSyscall{{Names: []string{"mmap"}, Action: specs.ActErrno}, allow("mmap", is(0, eq, 1))},
			map[[3]uint64]uint32{{1, 0, 0}: yes, {0, 0, 0}: no}},
		{"one with another errno is not", []specs.LinuxSyscall{{Names: []string{"mmap"}, Action: specs.ActErrno, ErrnoRet: pointer(2)}, allow("mmap", is(0, eq, 1))},
			map[[3]uint64]uint32{{1, 0, 0}: unix.SECCOMP_RET_ERRNO | 2, {0, 0, 0}: unix.SECCOMP_RET_ERRNO | 2}},
	} {
		t.Run(test.is, func(t *testing.T) {
			m := compile(t, &specs.LinuxSeccomp{DefaultAction: specs.ActErrno, Syscalls: test.rules})
			for args, want := range test.want {
				if got := m.run(t, on(t, x8664, "mmap", args[:]...)); got != want {
					t.Errorf("%v: %#x, not %#x", args, got, want)
				}
			}
		})
	}
}

func TestArchitectures(t *testing.T) {
	rules := []specs.LinuxSyscall{{Names: []string{"mkdir"}, Action: specs.ActAllow}}
	const (
		yes  = unix.SECCOMP_RET_ALLOW
		no   = unix.SECCOMP_RET_ERRNO | 1
		kill = unix.SECCOMP_RET_KILL_THREAD
	)
	for _, test := range []struct {
		is    string
		archs []specs.Arch
		mkdir [3]uint32 // by abi
		chdir [3]uint32
	}{
		{"x86_64 alone when none is listed", nil, [3]uint32{yes, kill, kill}, [3]uint32{no, kill, kill}},
		{"x86_64 alone", []specs.Arch{specs.ArchX86_64}, [3]uint32{yes, kill, kill}, [3]uint32{no, kill, kill}},
		{"x86_64 also when only x86 is listed", []specs.Arch{specs.ArchX86}, [3]uint32{yes, yes, kill}, [3]uint32{no, no, kill}},
		{"x32 beside x86_64", []specs.Arch{specs.ArchX32}, [3]uint32{yes, kill, yes}, [3]uint32{no, kill, no}},
		{"all three", []specs.Arch{specs.ArchX86_64, specs.ArchX86, specs.ArchX32}, [3]uint32{yes, yes, yes}, [3]uint32{no, no, no}},
		{"others mean nothing here", []specs.Arch{specs.ArchAARCH64, specs.ArchS390X}, [3]uint32{yes, kill, kill}, [3]uint32{no, kill, kill}},
	} {
		t.Run(test.is, func(t *testing.T) {
			m := compile(t, &specs.LinuxSeccomp{DefaultAction: specs.ActErrno, Architectures: test.archs, Syscalls: rules})
			for _, where := range []abi{x8664, i386, x32} {
				if got := m.run(t, on(t, where, "mkdir")); got != test.mkdir[where] {
					t.Errorf("mkdir on %d: %#x, not %#x", where, got, test.mkdir[where])
				}
				if got := m.run(t, on(t, where, "chdir")); got != test.chdir[where] {
					t.Errorf("chdir on %d: %#x, not %#x", where, got, test.chdir[where])
				}
			}
			for _, arch := range []uint32{0, unix.AUDIT_ARCH_AARCH64, unix.AUDIT_ARCH_S390X, ^uint32(0)} {
				if got := m.run(t, call{arch: arch, nr: 83}); got != kill {
					t.Errorf("architecture %#x: %#x", arch, got)
				}
			}
		})
	}
}

func TestNewerCalls(t *testing.T) {
	const enosys = unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)
	profile := func(action specs.LinuxSeccompAction, names ...string) *specs.LinuxSeccomp {
		p := &specs.LinuxSeccomp{DefaultAction: action, Architectures: []specs.Arch{specs.ArchX86, specs.ArchX32}}
		for _, name := range names {
			p.Syscalls = append(p.Syscalls, specs.LinuxSyscall{Names: []string{name}, Action: specs.ActAllow})
		}
		return p
	}
	for _, test := range []struct {
		is      string
		profile *specs.LinuxSeccomp
		want    map[call]uint32
	}{
		{"above the newest name they are unknown, on each architecture", profile(specs.ActErrno, "read", "statx", "nonsense"), map[call]uint32{
			on(t, x8664, "io_pgetevents"):                     enosys,
			on(t, x8664, "pkey_free"):                         errno(unix.EPERM),
			on(t, i386, "arch_prctl"):                         enosys,
			on(t, i386, "pkey_free"):                          errno(unix.EPERM),
			on(t, x32, "io_pgetevents"):                       enosys,
			on(t, x32, "pkey_free"):                           errno(unix.EPERM),
			{arch: unix.AUDIT_ARCH_X86_64, nr: 0x3fffffff}:    enosys,
			{arch: unix.AUDIT_ARCH_I386, nr: ^uint32(0)}:      enosys,
			{arch: unix.AUDIT_ARCH_X86_64, nr: 1<<30 | 0xfff}: enosys,
		}},
		{"killing is no reason not to say so", profile(specs.ActKillProcess, "read", "statx"), map[call]uint32{
			on(t, x8664, "clone3"): enosys, on(t, x8664, "pkey_free"): unix.SECCOMP_RET_KILL_PROCESS,
		}},
		{"an allowing profile allows them", &specs.LinuxSeccomp{DefaultAction: specs.ActAllow,
			Syscalls: []specs.LinuxSyscall{{Names: []string{"read"}, Action: specs.ActErrno}}}, map[call]uint32{
			on(t, x8664, "clone3"): unix.SECCOMP_RET_ALLOW, {arch: unix.AUDIT_ARCH_X86_64, nr: 1000}: unix.SECCOMP_RET_ALLOW,
		}},
		{"a logging profile logs them", profile(specs.ActLog, "read"), map[call]uint32{on(t, x8664, "clone3"): unix.SECCOMP_RET_LOG}},
		{"a tracer is asked about them", profile(specs.ActTrace, "read"), map[call]uint32{on(t, x8664, "clone3"): unix.SECCOMP_RET_TRACE | 1}},
		{"without any name nothing is newer", profile(specs.ActErrno), map[call]uint32{on(t, x8664, "clone3"): errno(unix.EPERM)}},
		{"a rule that is left out still names its call", &specs.LinuxSeccomp{DefaultAction: specs.ActErrno,
			Syscalls: []specs.LinuxSyscall{{Names: []string{"clone3"}, Action: specs.ActErrno}}}, map[call]uint32{
			on(t, x8664, "clone3"): errno(unix.EPERM), on(t, x8664, "close_range"): enosys,
		}},
	} {
		t.Run(test.is, func(t *testing.T) {
			m := compile(t, test.profile)
			for c, want := range test.want {
				if got := m.run(t, c); got != want {
					t.Errorf("%#x %#x: %#x, not %#x", c.arch, c.nr, got, want)
				}
			}
		})
	}
}

func TestMultiplexedCallsOnX86(t *testing.T) {
	profile := &specs.LinuxSeccomp{DefaultAction: specs.ActErrno, Architectures: []specs.Arch{specs.ArchX86}, Syscalls: []specs.LinuxSyscall{
		{Names: []string{"connect", "send", "semop"}, Action: specs.ActAllow},
		{Names: []string{"socket"}, Action: specs.ActAllow, Args: []specs.LinuxSeccompArg{{Index: 0, Op: specs.OpEqualTo, Value: unix.AF_UNIX}}},
		{Names: []string{"getpid", "clone3"}, Action: specs.ActAllow},
	}}
	m := compile(t, profile)
	const yes, no = unix.SECCOMP_RET_ALLOW, unix.SECCOMP_RET_ERRNO | 1
	for _, test := range []struct {
		is   string
		c    call
		want uint32
	}{
		{"the direct call", on(t, i386, "connect"), yes},
		{"the direct call with its condition", on(t, i386, "socket", unix.AF_UNIX), yes},
		{"the direct call against its condition", on(t, i386, "socket", unix.AF_VSOCK), no},
		{"through socketcall", on(t, i386, "socketcall", 3), yes},
		{"through socketcall, which hides the condition", on(t, i386, "socketcall", 1), yes},
		{"a call that exists only there", on(t, i386, "socketcall", 9), yes},
		{"another call through socketcall", on(t, i386, "socketcall", 2), no},
		{"a semaphore through ipc", on(t, i386, "ipc", 1), yes},
		{"another call through ipc", on(t, i386, "ipc", 2), no},
		{"x86_64 is not multiplexed", on(t, x8664, "socket", unix.AF_VSOCK), no},
	} {
		t.Run(test.is, func(t *testing.T) {
			if got := m.run(t, test.c); got != test.want {
				t.Errorf("%#x, not %#x", got, test.want)
			}
		})
	}
}

func TestFlags(t *testing.T) {
	notify := specs.LinuxSyscall{Names: []string{"mkdir"}, Action: specs.ActNotify}
	for _, test := range []struct {
		is    string
		flags []specs.LinuxSeccompFlag
		rules []specs.LinuxSyscall
		want  uint32
	}{
		{"none unless said", nil, nil, 0},
		{"log", []specs.LinuxSeccompFlag{"SECCOMP_FILTER_FLAG_LOG"}, nil, unix.SECCOMP_FILTER_FLAG_LOG},
		{"several", []specs.LinuxSeccompFlag{"SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_SPEC_ALLOW"}, nil, unix.SECCOMP_FILTER_FLAG_LOG | unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW},
		{"tsync has nothing to do", []specs.LinuxSeccompFlag{"SECCOMP_FILTER_FLAG_TSYNC"}, nil, 0},
		{"a notifying rule needs a listener", nil, []specs.LinuxSyscall{notify}, unix.SECCOMP_FILTER_FLAG_NEW_LISTENER},
		{"which may wait", []specs.LinuxSeccompFlag{"SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"}, []specs.LinuxSyscall{notify}, unix.SECCOMP_FILTER_FLAG_NEW_LISTENER | unix.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV},
	} {
		t.Run(test.is, func(t *testing.T) {
			compiled, err := Compile(&specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Flags: test.flags, Syscalls: test.rules, ListenerPath: "/l"})
			if err != nil {
				t.Fatal(err)
			}
			if compiled.Flags != test.want {
				t.Errorf("%#x, not %#x", compiled.Flags, test.want)
			}
		})
	}
}

func TestErrorsNameTheFieldAndTheValue(t *testing.T) {
	entry := func(s specs.LinuxSyscall) *specs.LinuxSeccomp {
		return &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Syscalls: []specs.LinuxSyscall{{Names: []string{"read"}, Action: specs.ActLog}, s}}
	}
	arg := func(a ...specs.LinuxSeccompArg) *specs.LinuxSeccomp {
		return entry(specs.LinuxSyscall{Names: []string{"read"}, Action: specs.ActErrno, Args: a})
	}
	fine := specs.LinuxSeccompArg{Op: specs.OpEqualTo}
	for want, profile := range map[string]*specs.LinuxSeccomp{
		`defaultAction "SCMP_ACT_DENY" is unknown`:                              {DefaultAction: "SCMP_ACT_DENY"},
		`defaultAction "" is unknown`:                                           {Syscalls: []specs.LinuxSyscall{{}}},
		`defaultAction "SCMP_ACT_NOTIFY" would stop`:                            {DefaultAction: specs.ActNotify},
		`defaultErrnoRet 5: the action "SCMP_ACT_ALLOW" returns no errno`:       {DefaultAction: specs.ActAllow, DefaultErrnoRet: pointer(5)},
		`defaultErrnoRet 4096 is above 4095`:                                    {DefaultAction: specs.ActErrno, DefaultErrnoRet: pointer(4096)},
		`architectures[1] "SCMP_ARCH_Z80" is unknown`:                           {DefaultAction: specs.ActAllow, Architectures: []specs.Arch{specs.ArchX86, "SCMP_ARCH_Z80"}},
		`flags[0] "SECCOMP_FILTER_FLAG_FAST" is unknown`:                        {DefaultAction: specs.ActAllow, Flags: []specs.LinuxSeccompFlag{"SECCOMP_FILTER_FLAG_FAST"}},
		`flags[0] "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV" needs a rule`:        {DefaultAction: specs.ActAllow, Flags: []specs.LinuxSeccompFlag{specs.LinuxSeccompFlagWaitKillableRecv}},
		`listenerMetadata is set, but listenerPath is empty`:                    {DefaultAction: specs.ActAllow, ListenerMetadata: "x"},
		`listenerPath is empty, but a rule has the action "SCMP_ACT_NOTIFY"`:    entry(specs.LinuxSyscall{Names: []string{"read"}, Action: specs.ActNotify}),
		`syscalls[1].action "allow" is unknown`:                                 entry(specs.LinuxSyscall{Names: []string{"read"}, Action: "allow"}),
		`syscalls[1].errnoRet 1: the action "SCMP_ACT_KILL" returns no errno`:   entry(specs.LinuxSyscall{Names: []string{"read"}, Action: specs.ActKill, ErrnoRet: pointer(1)}),
		`syscalls[1].errnoRet 65536 is above 65535`:                             entry(specs.LinuxSyscall{Names: []string{"read"}, Action: specs.ActTrace, ErrnoRet: pointer(65536)}),
		`syscalls[1].names is empty`:                                            entry(specs.LinuxSyscall{Action: specs.ActLog}),
		`syscalls[1].names[1] is ""`:                                            entry(specs.LinuxSyscall{Names: []string{"read", ""}, Action: specs.ActLog}),
		`syscalls[1].names[0] "write" cannot have the action "SCMP_ACT_NOTIFY"`: entry(specs.LinuxSyscall{Names: []string{"write"}, Action: specs.ActNotify}),
		`syscalls[1].args[0].index 6 is above 5`:                                arg(specs.LinuxSeccompArg{Index: 6, Op: specs.OpEqualTo}),
		`syscalls[1].args[0].index 18446744073709551615 is above 5`:             arg(specs.LinuxSeccompArg{Index: ^uint(0), Op: specs.OpEqualTo}),
		`syscalls[1].args[1].op "==" is unknown`:                                arg(fine, specs.LinuxSeccompArg{Op: "=="}),
		`syscalls[1].args[1].op "" is unknown`:                                  arg(fine, specs.LinuxSeccompArg{}),
	} {
		t.Run(want, func(t *testing.T) {
			_, err := Compile(profile)
			if err == nil || !strings.HasPrefix(err.Error(), "seccomp profile: "+want) {
				t.Errorf("error %v", err)
			}
		})
	}
}

func TestTooManyConditionsAreAnError(t *testing.T) {
	profile := one(specs.LinuxSyscall{Names: []string{"read"}, Action: specs.ActErrno})
	profile.Syscalls = nil
	for i := range uint64(3000) {
		profile.Syscalls = append(profile.Syscalls, specs.LinuxSyscall{Names: []string{"read"}, Action: specs.ActErrno,
			Args: []specs.LinuxSeccompArg{{Op: specs.OpEqualTo, Value: i}}})
	}
	_, err := Compile(profile)
	if err == nil || !strings.Contains(err.Error(), "instructions, and the kernel takes 4096") {
		t.Errorf("error %v", err)
	}
}

func TestNothingToCompile(t *testing.T) {
	for is, profile := range map[string]*specs.LinuxSeccomp{"no profile": nil, "an empty one": {}} {
		t.Run(is, func(t *testing.T) {
			compiled, err := Compile(profile)
			if err != nil || len(compiled.Filters) != 0 || compiled.Flags != 0 {
				t.Errorf("%+v, %v", compiled, err)
			}
		})
	}
}

func TestIgnored(t *testing.T) {
	compiled, err := Compile(&specs.LinuxSeccomp{
		DefaultAction: specs.ActErrno, Architectures: []specs.Arch{specs.ArchX86_64, specs.ArchX86, specs.ArchARM},
		Syscalls: []specs.LinuxSyscall{
			{Names: []string{"read", "nonsense", "send", "arm_fadvise64_64"}, Action: specs.ActAllow},
			{Names: []string{"nonsense"}, Action: specs.ActLog},
			{Names: []string{"read"}, Action: specs.ActLog},
			{Names: []string{"mmap"}, Action: specs.ActLog, Args: []specs.LinuxSeccompArg{{Op: specs.OpEqualTo}}},
			{Names: []string{"mmap"}, Action: specs.ActAllow},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"architecture SCMP_ARCH_ARM: the guest is x86_64",
		`system call "nonsense": unknown`,
		`system call "arm_fadvise64_64": unknown`,
		"a rule for read: an earlier one without conditions prevails",
		"rules for mmap with conditions: the one without prevails",
	}
	if diff := cmp.Diff(want, compiled.Ignored); diff != "" {
		t.Error(diff)
	}
}

func TestDefaultProfile(t *testing.T) {
	profile := defaultProfile(t)
	compiled, err := Compile(profile)
	if err != nil {
		t.Fatal(err)
	}
	n := len(compiled.Filters[0]) / 8
	t.Logf("%d instructions", n)
	if n > 1000 { // November 2026: 711, of which a call runs about 12
		t.Errorf("%d instructions", n)
	}
	agree(t, profile)
}

// agree compares the program of a profile with the model.
func agree(t *testing.T, profile *specs.LinuxSeccomp) {
	t.Helper()
	m, says := compile(t, profile), newModel(profile)
	probe(profile, func(c call) {
		if got, want := m.run(t, c), says.run(c); got != want {
			t.Fatalf("%+v: %#x, not %#x", c, got, want)
		}
	})
}

func TestRandomProfilesMeanWhatTheModelSays(t *testing.T) {
	for seed := range uint64(100) {
		t.Run(strconv.FormatUint(seed, 10), func(t *testing.T) {
			agree(t, randomProfile(rand.New(rand.NewPCG(seed, 0))))
		})
	}
}

func BenchmarkCompileDefaultProfile(b *testing.B) {
	profile := defaultProfile(b)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Compile(profile); err != nil {
			b.Fatal(err)
		}
	}
}
