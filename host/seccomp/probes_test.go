package seccomp

import (
	"encoding/json"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// defaultProfile is what containerd gives a container that asks for nothing
// special: names as of containerd 2.4 on Linux 6.18.
func defaultProfile(t testing.TB) *specs.LinuxSeccomp {
	t.Helper()
	text, err := os.ReadFile("testdata/default.json")
	if err != nil {
		t.Fatal(err)
	}
	var profile specs.LinuxSeccomp
	if err := json.Unmarshal(text, &profile); err != nil {
		t.Fatal(err)
	}
	return &profile
}

// probe calls f with calls that tell programs for the profile apart: every
// number of every architecture, and at each the values of the profile's
// conditions and their neighbours.
func probe(profile *specs.LinuxSeccomp, f func(call)) {
	for _, arch := range []uint32{unix.AUDIT_ARCH_AARCH64, unix.AUDIT_ARCH_S390X, 0, ^uint32(0)} {
		f(call{arch: arch, nr: 1})
	}
	for where, arch := range []uint32{x8664: unix.AUDIT_ARCH_X86_64, i386: unix.AUDIT_ARCH_I386, x32: unix.AUDIT_ARCH_X86_64} {
		values := probeValues(profile, abi(where))
		numbers := []uint32{1<<30 - 1, 1<<31 - 1, 1<<32 - 2, 1<<32 - 1}
		for nr := range uint32(600) {
			if abi(where) == x32 {
				nr |= x32Bit
			}
			numbers = append(numbers, nr)
		}
		for _, nr := range numbers {
			c := call{arch: arch, nr: nr}
			f(c)
			if some := values[nr]; some != nil {
				probeArgs(c, some, f)
			}
		}
	}
}

// values are those that matter of each argument.
type values [6]map[uint64]bool

// probeValues returns the values that matter at each number of an abi.
func probeValues(profile *specs.LinuxSeccomp, where abi) map[uint32]*values {
	all := make(map[uint32]*values)
	add := func(nr uint32, arg specs.LinuxSeccompArg) {
		if all[nr] == nil {
			all[nr] = new(values)
		}
		if all[nr][arg.Index] == nil {
			all[nr][arg.Index] = make(map[uint64]bool)
		}
		for _, v := range boundaries(arg) {
			all[nr][arg.Index][v] = true
		}
	}
	for _, s := range profile.Syscalls {
		for _, name := range s.Names {
			nr, direct := number(name, where)
			mux, sub, indirect := multiplexed(name)
			for _, arg := range s.Args {
				if direct {
					add(nr, arg)
				}
				if indirect && where == i386 {
					add(mux, arg)
				}
			}
			if indirect && where == i386 {
				add(mux, specs.LinuxSeccompArg{Value: sub})
			}
		}
	}
	return all
}

// probeArgs tries each value alone and then mixtures of values.
func probeArgs(c call, some *values, f func(call)) {
	random := rand.New(rand.NewPCG(1, uint64(c.nr)))
	var each [6][]uint64
	tries := 0
	for argument := range each {
		each[argument] = slices.Sorted(maps.Keys(some[argument]))
		for _, value := range each[argument] {
			one := c
			one.args[argument] = value
			f(one)
			tries++
		}
	}
	for range min(tries, 100) {
		mixed := c
		for argument := range mixed.args {
			mixed.args[argument] = random.Uint64() >> random.IntN(64)
			if n := len(each[argument]); n > 0 {
				mixed.args[argument] = each[argument][random.IntN(n)]
			}
		}
		f(mixed)
	}
}

// boundaries are values of an argument around those that a condition is about.
func boundaries(arg specs.LinuxSeccompArg) []uint64 {
	around := []uint64{0, 1, 1 << 32, ^uint64(0)}
	for _, v := range []uint64{arg.Value, arg.ValueTwo, arg.ValueTwo & arg.Value, arg.ValueTwo | ^arg.Value} {
		around = append(around, v, v-1, v+1, v^1<<32, v^1<<63, v&0xffffffff, v&^uint64(0xffffffff), v+1<<32, v-1<<32)
	}
	return around
}

// randomProfile makes a profile up from a source of numbers.
func randomProfile(random *rand.Rand) *specs.LinuxSeccomp {
	pick := func(n int) int { return random.IntN(n) }
	actions := []specs.LinuxSeccompAction{specs.ActAllow, specs.ActErrno, specs.ActKill, specs.ActKillProcess,
		specs.ActKillThread, specs.ActTrap, specs.ActTrace, specs.ActLog}
	action := func() (specs.LinuxSeccompAction, *uint) {
		a := actions[pick(len(actions))]
		if (a == specs.ActErrno || a == specs.ActTrace) && pick(2) == 0 {
			return a, pointer(uint(pick(4095)))
		}
		return a, nil
	}
	var profile specs.LinuxSeccomp
	profile.DefaultAction, profile.DefaultErrnoRet = action()
	for _, arch := range []specs.Arch{specs.ArchX86_64, specs.ArchX86, specs.ArchX32} {
		if pick(3) > 0 {
			profile.Architectures = append(profile.Architectures, arch)
		}
	}
	for range pick(40) {
		var s specs.LinuxSyscall
		s.Action, s.ErrnoRet = action()
		for range 1 + pick(6) {
			s.Names = append(s.Names, randomName(random))
		}
		if pick(2) == 0 {
			s.Args = randomArgs(random)
		}
		profile.Syscalls = append(profile.Syscalls, s)
	}
	return &profile
}

// randomName prefers a few, so that rules meet.
func randomName(random *rand.Rand) string {
	favourites := []string{"socket", "clone", "semop", "shmget", "recv", "read", "personality", "ioctl"}
	if random.IntN(3) == 0 {
		return favourites[random.IntN(len(favourites))]
	}
	return syscalls[random.IntN(len(syscalls))].name
}

func randomArgs(random *rand.Rand) []specs.LinuxSeccompArg {
	all := []specs.LinuxSeccompOperator{specs.OpEqualTo, specs.OpNotEqual, specs.OpLessThan, specs.OpLessEqual,
		specs.OpGreaterThan, specs.OpGreaterEqual, specs.OpMaskedEqual}
	var args []specs.LinuxSeccompArg
	for range 1 + random.IntN(4) {
		arg := specs.LinuxSeccompArg{Index: uint(random.IntN(6)), Op: all[random.IntN(len(all))]}
		arg.Value = random.Uint64() >> random.IntN(64)
		arg.ValueTwo = random.Uint64() >> random.IntN(64)
		if random.IntN(3) == 0 {
			arg.Value = uint64(random.IntN(4)) << (32 * random.IntN(2))
		}
		args = append(args, arg)
	}
	return args
}
