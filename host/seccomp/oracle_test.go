//go:build oracle

package seccomp

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"kata/test/pace"
)

// oracle is libseccomp, driven as runc drives it. It needs gcc and the
// package libseccomp-dev of the distribution.
type oracle struct {
	program string
}

func newOracle(t testing.TB) oracle {
	t.Helper()
	program := filepath.Join(t.TempDir(), "oracle")
	out, err := exec.Command("gcc", "-Wall", "-Wextra", "-Werror", "-o", program, "testdata/oracle/main.c", "-lseccomp").CombinedOutput()
	if err != nil {
		t.Fatalf("compile the oracle (gcc and libseccomp-dev are needed): %v\n%s", err, out)
	}
	return oracle{program}
}

// run gives the oracle a second: it computes for a millisecond, but the
// libseccomp of Debian 12 never comes back from some rules.
func (o oracle) run(input string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(context.Background(), pace.Of(time.Second))
	defer cancel()
	cmd := exec.CommandContext(ctx, o.program)
	cmd.Stdin = strings.NewReader(input)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("libseccomp: %w: %s", err, stderr.String())
	}
	return out, nil
}

func (o oracle) ask(t testing.TB, input string) []byte {
	t.Helper()
	out, err := o.run(input)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// known returns which names libseccomp resolves: those up to the kernel that
// its version was made for.
func (o oracle) known(t testing.TB, names []string) map[string]bool {
	t.Helper()
	answers := strings.Fields(string(o.ask(t, "known "+strings.Join(names, "\nknown ")+"\n")))
	if len(answers) != len(names) {
		t.Fatalf("%d answers to %d names", len(answers), len(names))
	}
	known := make(map[string]bool)
	for i, name := range names {
		known[name] = answers[i] == "1"
	}
	return known
}

// compile does what runc does with a profile.
func (o oracle) compile(t testing.TB, profile *specs.LinuxSeccomp) machine {
	t.Helper()
	return newMachine(t, o.ask(t, o.script(profile)))
}

func (o oracle) script(profile *specs.LinuxSeccomp) string {
	var script strings.Builder
	fallback := modelAction(profile.DefaultAction, profile.DefaultErrnoRet)
	fmt.Fprintln(&script, "default", fallback)
	for _, arch := range profile.Architectures {
		name := map[specs.Arch]string{specs.ArchX86_64: "x86_64", specs.ArchX86: "x86", specs.ArchX32: "x32"}[arch]
		fmt.Fprintln(&script, "arch", name)
	}
	if len(profile.Syscalls) > 32 {
		fmt.Fprintln(&script, "optimize")
	}
	for _, s := range profile.Syscalls {
		action := modelAction(s.Action, s.ErrnoRet)
		if action == fallback {
			continue
		}
		for _, name := range s.Names {
			indices := make(map[uint]bool)
			for _, arg := range s.Args {
				indices[arg.Index] = true
			}
			if len(indices) == len(s.Args) {
				o.rule(&script, action, name, s.Args...)
				continue
			}
			for _, arg := range s.Args {
				o.rule(&script, action, name, arg)
			}
		}
	}
	return script.String()
}

func (oracle) rule(script *strings.Builder, action uint32, name string, args ...specs.LinuxSeccompArg) {
	fmt.Fprint(script, "rule ", action, " ", name, " ", len(args))
	for _, arg := range args {
		fmt.Fprint(script, " ", arg.Index, " ", arg.Op, " ", arg.Value, " ", arg.ValueTwo)
	}
	fmt.Fprintln(script)
}

// compare runs both programs over everything that tells them apart. What is
// different by intention is taken into account: ENOSYS for calls newer than
// the profile, which runc adds to libseccomp's program.
//
// In one of some hundred large profiles libseccomp 2.5.4 shares instructions
// that it must not, and its program says something else about a call than its
// program for the rules for that call alone. The latter counts.
func (o oracle) compare(t *testing.T, profile *specs.LinuxSeccomp) (calls int) {
	t.Helper()
	ours, theirs, says := compile(t, profile), o.compile(t, profile), newModel(profile)
	alone := make(map[[2]uint32]machine)
	probe(profile, func(c call) {
		calls++
		got, want := ours.run(t, c), theirs.run(t, c)
		where, ok := modelABI(profile, c)
		if ok && !says.permissive && says.newest[where] >= 0 && int64(c.nr) > says.newest[where] &&
			(c.nr != ^uint32(0) || where != x8664) {
			want = errno(unix.ENOSYS)
		}
		if got == want {
			return
		}
		key := [2]uint32{c.arch, c.nr}
		if _, asked := alone[key]; !asked {
			alone[key] = o.compile(t, about(profile, where, c.nr))
			t.Logf("%+v: libseccomp %#x, and %#x for the rules for that call alone", c, want, alone[key].run(t, c))
		}
		if want := alone[key].run(t, c); got != want {
			t.Fatalf("%+v: %#x, libseccomp %#x, the model %#x", c, got, want, says.run(c))
		}
	})
	return calls
}

// about returns the profile with only the rules for one number.
func about(profile *specs.LinuxSeccomp, where abi, nr uint32) *specs.LinuxSeccomp {
	part := *profile
	part.Syscalls = nil
	for _, s := range profile.Syscalls {
		s.Names = slices.DeleteFunc(slices.Clone(s.Names), func(name string) bool {
			return !slices.ContainsFunc(modelRules(name, where, s.Args), func(r modelRule) bool { return r.nr == nr })
		})
		if len(s.Names) > 0 {
			part.Syscalls = append(part.Syscalls, s)
		}
	}
	return &part
}

// notThroughMultiplexer are calls of x86 whose rules libseccomp (2.5.4) does
// not apply to socketcall and ipc, though it does for their siblings.
var notThroughMultiplexer = []string{"accept", "send", "recv", "semop", "semtimedop"}

func TestOracleKnowsTheSameNumbers(t *testing.T) {
	o := newOracle(t)
	known := o.known(t, names())
	var unknown []string
	for _, name := range names() {
		if !known[name] {
			unknown = append(unknown, name)
			continue
		}
		t.Run(name, func(t *testing.T) {
			profile := one(specs.LinuxSyscall{Names: []string{name}, Action: specs.ActErrno})
			if slices.Contains(notThroughMultiplexer, name) {
				profile.Architectures = []specs.Arch{specs.ArchX32}
			}
			o.compare(t, profile)
		})
	}
	t.Logf("libseccomp does not know %d: %v", len(unknown), unknown)
	if len(unknown) > len(syscalls)/10 {
		t.Error("that is too old an oracle, or a wrong table")
	}
}

// names are those of the table and of calls that x86 only has multiplexed.
func names() []string {
	all := []string{"send", "recv"}
	for _, s := range syscalls {
		all = append(all, s.name)
	}
	return all
}

func TestOracleOnTheDefaultProfile(t *testing.T) {
	o := newOracle(t)
	profile := defaultProfile(t)
	var dropped []string
	for i, s := range profile.Syscalls {
		known := o.known(t, s.Names)
		profile.Syscalls[i].Names = slices.DeleteFunc(s.Names, func(name string) bool {
			if !known[name] {
				dropped = append(dropped, name)
			}
			return !known[name]
		})
	}
	t.Logf("%d calls compared, without the names too new for libseccomp: %v", o.compare(t, profile), dropped)
}

func TestOracleOnRandomProfiles(t *testing.T) {
	o := newOracle(t)
	known := o.known(t, names())
	calls := 0
	for seed := range uint64(400) {
		profile := oracleProfile(rand.New(rand.NewPCG(seed, 1)), known)
		t.Run(fmt.Sprint(seed), func(t *testing.T) { calls += o.compare(t, profile) })
	}
	t.Logf("%d calls compared", calls)
}

// oracleProfile makes up a profile that libseccomp 2.5.4 compiles as
// documented. Where a call has several rules of which some have several
// conditions that are not all SCMP_CMP_EQ, it does not: with the rules
// {arg1 >= 2, arg2 != 3} and {arg5 >= 827, arg0 <= 5} it does not match
// arg1 = 2, arg2 = 0, on 32 bits it goes wrong for a sixth of such profiles,
// and some keep it busy for ever. Where rules with conditions for one call have
// different actions, the order is its own; calls that are multiplexed on x86
// have one action here, and the multiplexers no rules, for they share numbers.
// Profiles of these kinds are compared with the model only.
func oracleProfile(random *rand.Rand, known map[string]bool) *specs.LinuxSeccomp {
	profile := randomProfile(random)
	profile.Syscalls = nil
	all := names()
	random.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	for _, name := range all[:1+random.IntN(80)] {
		if !known[name] || slices.Contains(notThroughMultiplexer, name) || name == "socketcall" || name == "ipc" {
			continue
		}
		entry := randomProfile(random) // for an action
		s := specs.LinuxSyscall{Names: []string{name}, Action: entry.DefaultAction, ErrnoRet: entry.DefaultErrnoRet}
		rules := [][]specs.LinuxSeccompArg{nil}
		switch _, _, multiplexes := multiplexed(name); {
		case multiplexes: // all share a number on x86
			s.Action, s.ErrnoRet = specs.ActErrno, pointer(77)
		case random.IntN(3) == 0:
			rules = [][]specs.LinuxSeccompArg{oracleArgs(random, 1+random.IntN(6), false)}
		case random.IntN(2) == 0:
			rules = nil
			for range 1 + random.IntN(4) {
				rules = append(rules, oracleArgs(random, 1+random.IntN(3), true))
			}
		}
		for _, args := range rules {
			s.Args = args
			profile.Syscalls = append(profile.Syscalls, s)
		}
	}
	return profile
}

// oracleArgs makes up conditions on different arguments.
func oracleArgs(random *rand.Rand, n int, equal bool) []specs.LinuxSeccompArg {
	var args []specs.LinuxSeccompArg
	for _, index := range random.Perm(6)[:n] {
		arg := randomArgs(random)[0]
		arg.Index = uint(index)
		if equal {
			arg.Op = specs.OpEqualTo
		}
		args = append(args, arg)
	}
	return args
}
