package seccomp

import (
	"encoding/binary"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// call is what the kernel shows a program of a system call.
type call struct {
	arch uint32
	nr   uint32
	args [6]uint64
}

// machine runs a compiled program as the kernel would.
type machine struct {
	vm *bpf.VM
}

// newMachine checks a program as the kernel does when it is loaded, as far as
// the virtual machine of x/net does.
func newMachine(t testing.TB, program []byte) machine {
	t.Helper()
	if n := len(program); n == 0 || n%8 != 0 || n/8 > unix.BPF_MAXINSNS {
		t.Fatalf("the program has %d bytes", n)
	}
	var instructions []bpf.Instruction
	for ; len(program) > 0; program = program[8:] {
		raw := bpf.RawInstruction{
			Op: binary.NativeEndian.Uint16(program), Jt: program[2], Jf: program[3],
			K: binary.NativeEndian.Uint32(program[4:]),
		}
		in := raw.Disassemble()
		if _, unknown := in.(bpf.RawInstruction); unknown {
			t.Fatalf("instruction %d is unknown: %+v", len(instructions), raw)
		}
		instructions = append(instructions, in)
	}
	vm, err := bpf.NewVM(instructions)
	if err != nil {
		t.Fatal(err)
	}
	return machine{vm}
}

// run returns the verdict about a call. Packets, for which the virtual machine
// is made, are big-endian, so the words of struct seccomp_data become that.
func (m machine) run(t testing.TB, c call) uint32 {
	t.Helper()
	words := []uint32{c.nr, c.arch, 0, 0} // the instruction pointer does not count
	for _, arg := range c.args {
		words = append(words, uint32(arg), uint32(arg>>32))
	}
	var data []byte
	for _, word := range words {
		data = binary.BigEndian.AppendUint32(data, word)
	}
	verdict, err := m.vm.Run(data)
	if err != nil {
		t.Fatalf("%+v: %v", c, err)
	}
	return uint32(verdict)
}

// compile returns the one program of a profile that is in order.
func compile(t testing.TB, profile *specs.LinuxSeccomp) machine {
	t.Helper()
	compiled, err := Compile(profile)
	if err != nil {
		t.Fatal(err)
	}
	if len(compiled.Filters) != 1 {
		t.Fatalf("%d programs", len(compiled.Filters))
	}
	return newMachine(t, compiled.Filters[0])
}

// on returns a call of an abi by name.
func on(t testing.TB, where abi, name string, args ...uint64) call {
	t.Helper()
	nr, ok := number(name, where)
	if !ok {
		t.Fatalf("abi %d has no %s", where, name)
	}
	c := call{arch: unix.AUDIT_ARCH_X86_64, nr: nr}
	if where == i386 {
		c.arch = unix.AUDIT_ARCH_I386
	}
	copy(c.args[:], args)
	return c
}

func errno(e unix.Errno) uint32 { return unix.SECCOMP_RET_ERRNO | uint32(e) }

func pointer(errno uint) *uint { return &errno }
