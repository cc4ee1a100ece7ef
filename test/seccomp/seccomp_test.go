// Package seccomp tests the two halves of seccomp together: what the host's
// compiler makes of a profile and the guest's loader loads is put before the
// kernel that runs the test, in child processes.
package seccomp

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	guest "kata/guest/container/seccomp"
	host "kata/host/seccomp"
)

// order is what a child process does under a profile.
type order struct {
	Filters [][]byte
	Flags   uint32
	Calls   []call   // made one after the other, then
	Exec    []string // executed, unless empty
}

// call is a system call.
type call struct {
	Number uintptr
	Args   [6]uintptr
}

const childVariable = "KATA_TEST_SECCOMP_CHILD"

// TestMain makes the test program also the child.
func TestMain(m *testing.M) {
	if text := os.Getenv(childVariable); text != "" {
		fmt.Fprintln(os.Stderr, "child:", child(text))
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// child obeys an order, as the init stage of a container would: it does not
// return when all goes well. It prints the error number of each call.
func child(text string) error {
	runtime.LockOSThread()
	var o order
	if err := json.Unmarshal([]byte(text), &o); err != nil {
		return err
	}
	errnos := make([]byte, 0, 1000) // made before memory is restricted
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	if _, err := guest.Load(o.Filters, o.Flags); err != nil {
		return err
	}
	for _, c := range o.Calls {
		_, _, errno := unix.RawSyscall6(c.Number, c.Args[0], c.Args[1], c.Args[2], c.Args[3], c.Args[4], c.Args[5])
		errnos = fmt.Appendf(errnos, "%d ", errno)
	}
	if len(o.Exec) > 0 {
		return syscall.Exec(o.Exec[0], o.Exec, []string{"PATH=/"})
	}
	if _, err := os.Stdout.Write(errnos); err != nil {
		return err
	}
	os.Exit(0)
	return nil
}

// under obeys an order under a profile, in a process of its own.
func under(t *testing.T, profile *specs.LinuxSeccomp, o order) (output string, state *os.ProcessState) {
	t.Helper()
	compiled, err := host.Compile(profile)
	if err != nil {
		t.Fatal(err)
	}
	o.Filters, o.Flags = compiled.Filters, compiled.Flags
	text, err := json.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), childVariable+"="+string(text))
	out, err := cmd.CombinedOutput()
	if exit := new(exec.ExitError); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(out)), cmd.ProcessState
}

func killed(state *os.ProcessState) bool {
	status, ok := state.Sys().(syscall.WaitStatus)
	return ok && status.Signaled() && status.Signal() == syscall.SIGSYS
}

func defaultProfile(t *testing.T) *specs.LinuxSeccomp {
	t.Helper()
	text, err := os.ReadFile("../../host/seccomp/testdata/default.json")
	if err != nil {
		t.Fatal(err)
	}
	var profile specs.LinuxSeccomp
	if err := json.Unmarshal(text, &profile); err != nil {
		t.Fatal(err)
	}
	return &profile
}

// except is a profile that allows what its rules do not mention.
func except(rules ...specs.LinuxSyscall) *specs.LinuxSeccomp {
	return &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Syscalls: rules}
}

func on(name string, action specs.LinuxSeccompAction, errno uint, args ...specs.LinuxSeccompArg) specs.LinuxSyscall {
	s := specs.LinuxSyscall{Names: []string{name}, Action: action, Args: args}
	if errno > 0 {
		s.ErrnoRet = &errno
	}
	return s
}

func TestTheDefaultProfileAllowsAndDenies(t *testing.T) {
	const here, vsock, alg, newUTS = unix.AF_UNIX, unix.AF_VSOCK, unix.AF_ALG, unix.CLONE_NEWUTS
	calls := []struct {
		is   string
		c    call
		want unix.Errno
	}{
		{"getppid is allowed", call{Number: unix.SYS_GETPPID}, 0},
		{"a socket is allowed", call{unix.SYS_SOCKET, [6]uintptr{here, unix.SOCK_STREAM}}, 0},
		{"a vsock is not", call{unix.SYS_SOCKET, [6]uintptr{vsock, unix.SOCK_STREAM}}, unix.EPERM},
		{"nor one of the crypto API", call{unix.SYS_SOCKET, [6]uintptr{alg, unix.SOCK_SEQPACKET}}, unix.EPERM},
		{"a condition has 64 bits", call{unix.SYS_SOCKET, [6]uintptr{1<<32 | here, unix.SOCK_STREAM}}, unix.EPERM},
		{"asking for the personality is allowed", call{unix.SYS_PERSONALITY, [6]uintptr{0xffffffff}}, 0},
		{"another one is not", call{unix.SYS_PERSONALITY, [6]uintptr{0x0400000}}, unix.EPERM},
		{"unshare is not", call{unix.SYS_UNSHARE, [6]uintptr{newUTS}}, unix.EPERM},
		{"clone without namespaces reaches the kernel", call{unix.SYS_CLONE, [6]uintptr{unix.CLONE_THREAD}}, unix.EINVAL},
		{"clone with one does not", call{unix.SYS_CLONE, [6]uintptr{unix.CLONE_THREAD | newUTS}}, unix.EPERM},
		{"clone3 is unknown, so that clone is used", call{Number: unix.SYS_CLONE3}, unix.ENOSYS},
		{"keyctl is not allowed", call{Number: unix.SYS_KEYCTL}, unix.EPERM},
		{"calls of the future are unknown", call{Number: 600}, unix.ENOSYS},
	}
	var o order
	var want []string
	for _, c := range calls {
		o.Calls = append(o.Calls, c.c)
		want = append(want, fmt.Sprintf("%s: %d", c.is, c.want))
	}
	out, state := under(t, defaultProfile(t), o)
	var got []string
	for i, errno := range strings.Fields(out) {
		if i < len(calls) {
			got = append(got, calls[i].is+": "+errno)
		}
	}
	if diff := cmp.Diff(want, got); diff != "" || !state.Success() {
		t.Errorf("%v, %s\n%s", state, out, diff)
	}
}

func TestProgramsRunUnderTheDefaultProfile(t *testing.T) {
	dir := t.TempDir()
	script := `cd ` + dir + ` && mkdir a && echo fine >a/b && (cat a/b | tr f F) && sleep 0 & wait`
	out, state := under(t, defaultProfile(t), order{Exec: []string{"/bin/busybox", "sh", "-c", script}})
	if out != "Fine" || !state.Success() {
		t.Errorf("%q, %v", out, state)
	}
	out, state = under(t, defaultProfile(t), order{Exec: []string{"/bin/busybox", "mount", "-t", "tmpfs", "none", dir}})
	if !strings.Contains(out, "not permitted") && !strings.Contains(out, "permission denied") || state.Success() {
		t.Errorf("mount: %q, %v", out, state)
	}
}

func TestActions(t *testing.T) {
	for _, test := range []struct {
		is     string
		rule   specs.LinuxSyscall
		killed bool
		output string
		made   bool
	}{
		{"allow", on("chdir", specs.ActErrno, 0), false, "", true},
		{"log lets it happen", on("mkdir", specs.ActLog, 0), false, "", true},
		{"errno gives the error that is asked for", on("mkdir", specs.ActErrno, uint(unix.ENOSPC)), false, "No space left on device", false},
		{"trace without a tracer is an unknown call", on("mkdir", specs.ActTrace, 0), false, "Function not implemented", false},
		{"trap signals", on("mkdir", specs.ActTrap, 0), true, "", false},
		{"kill", on("mkdir", specs.ActKill, 0), true, "", false},
		{"kill thread", on("mkdir", specs.ActKillThread, 0), true, "", false},
		{"kill process", on("mkdir", specs.ActKillProcess, 0), true, "", false},
	} {
		t.Run(test.is, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "made")
			out, state := under(t, except(test.rule), order{Exec: []string{"/bin/busybox", "mkdir", dir}})
			if killed(state) != test.killed || !strings.Contains(out, test.output) {
				t.Errorf("%v, %q", state, out)
			}
			if _, err := os.Stat(dir); (err == nil) != test.made {
				t.Errorf("the directory: %v", err)
			}
		})
	}
}

func TestConditions(t *testing.T) {
	const value = 0x5_0000_0007
	below, above := uintptr(value-1), uintptr(value+1)
	for _, test := range []struct {
		is   string
		args []specs.LinuxSeccompArg
		want string // error numbers for one below the value, it and one above
	}{
		{"equal", []specs.LinuxSeccompArg{{Index: 4, Value: value, Op: specs.OpEqualTo}}, "0 77 0"},
		{"not equal", []specs.LinuxSeccompArg{{Index: 4, Value: value, Op: specs.OpNotEqual}}, "77 0 77"},
		{"less", []specs.LinuxSeccompArg{{Index: 4, Value: value, Op: specs.OpLessThan}}, "77 0 0"},
		{"less or equal", []specs.LinuxSeccompArg{{Index: 4, Value: value, Op: specs.OpLessEqual}}, "77 77 0"},
		{"greater", []specs.LinuxSeccompArg{{Index: 4, Value: value, Op: specs.OpGreaterThan}}, "0 0 77"},
		{"greater or equal", []specs.LinuxSeccompArg{{Index: 4, Value: value, Op: specs.OpGreaterEqual}}, "0 77 77"},
		{"masked equal", []specs.LinuxSeccompArg{{Index: 4, Value: 0xf_0000_0008, ValueTwo: 0x5_0000_0000, Op: specs.OpMaskedEqual}}, "77 77 0"},
		{"two of which one does not hold", []specs.LinuxSeccompArg{{Index: 4, Value: value, Op: specs.OpGreaterEqual}, {Index: 5, Value: 2, Op: specs.OpEqualTo}}, "0 0 0"},
		{"two that hold", []specs.LinuxSeccompArg{{Index: 4, Value: value, Op: specs.OpGreaterEqual}, {Index: 5, Value: 1, Op: specs.OpEqualTo}}, "0 77 77"},
		{"two on the same argument, of which one holds", []specs.LinuxSeccompArg{{Index: 4, Value: value, Op: specs.OpGreaterThan}, {Index: 4, Value: value, Op: specs.OpLessThan}}, "77 0 77"},
	} {
		t.Run(test.is, func(t *testing.T) {
			var o order
			for _, v := range []uintptr{below, value, above} {
				o.Calls = append(o.Calls, call{unix.SYS_GETPPID, [6]uintptr{4: v, 5: 1}}) // which looks at no argument
			}
			if out, _ := under(t, except(on("getppid", specs.ActErrno, 77, test.args...)), o); out != test.want {
				t.Errorf("%q, not %q", out, test.want)
			}
		})
	}
}

func TestCallsOfX86(t *testing.T) {
	program := filepath.Join(t.TempDir(), "mkdir")
	build := exec.Command("go", "build", "-o", program, "./testdata/mkdir")
	build.Env = append(os.Environ(), "GOARCH=386", "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	both := []specs.Arch{specs.ArchX86_64, specs.ArchX86}
	for _, test := range []struct {
		is      string
		profile *specs.LinuxSeccomp
		archs   []specs.Arch
		killed  bool
		output  string
	}{
		{"they kill when the profile is for x86_64", except(on("getppid", specs.ActErrno, 1)), nil, true, ""},
		{"they are allowed when it is for both", except(on("getppid", specs.ActErrno, 1)), both, false, "0"},
		{"they are denied by name", except(on("mkdirat", specs.ActErrno, 77)), both, false, "77"},
		{"the default profile is for both", defaultProfile(t), both, false, "0"},
	} {
		t.Run(test.is, func(t *testing.T) {
			test.profile.Architectures = test.archs
			out, state := under(t, test.profile, order{Exec: []string{program, filepath.Join(t.TempDir(), "made")}})
			if killed(state) != test.killed || !test.killed && out != test.output {
				t.Errorf("%v, %q", state, out)
			}
		})
	}
}

func TestCallsOfX32(t *testing.T) {
	const x32 = 1 << 30
	o := order{Calls: []call{{Number: x32 | unix.SYS_GETPPID}}}
	profile := except(on("getppid", specs.ActErrno, 77))
	profile.Architectures = []specs.Arch{specs.ArchX32}
	if out, _ := under(t, profile, o); out != "77" {
		t.Errorf("with rules for x32: %q", out)
	}
	// A dead thread of a Go process is not noticed; the process is to die.
	profile.Syscalls[0].Action, profile.Syscalls[0].ErrnoRet = specs.ActKillProcess, nil
	if out, state := under(t, profile, o); !killed(state) {
		t.Errorf("with a rule that kills: %v, %q", state, out)
	}
}

func TestNewerCallsAreUnknownRatherThanDenied(t *testing.T) {
	// What the child needs, and statx (332) for the newest.
	needed := []string{"read", "write", "exit_group", "futex", "mmap", "munmap", "madvise", "rt_sigaction", "rt_sigprocmask",
		"rt_sigreturn", "sigaltstack", "nanosleep", "epoll_pwait", "tgkill", "getpid", "gettid", "sched_yield", "fcntl",
		"clone", "arch_prctl", "set_robust_list", "statx"}
	profile := &specs.LinuxSeccomp{DefaultAction: specs.ActErrno,
		Syscalls: []specs.LinuxSyscall{{Names: needed, Action: specs.ActAllow}}}
	o := order{Calls: []call{{Number: unix.SYS_GETPPID}, {Number: unix.SYS_GETRANDOM}, {Number: unix.SYS_RSEQ}, {Number: unix.SYS_CLOSE_RANGE}}}
	want := fmt.Sprintf("%d %[1]d %d %[2]d", unix.EPERM, unix.ENOSYS)
	if out, state := under(t, profile, o); out != want {
		t.Errorf("%q, %v; want %q", out, state, want)
	}
}
