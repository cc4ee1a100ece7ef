package cgroup

import (
	"errors"
	"runtime"
	"strings"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"

	"kata/api/ocipb"
	"kata/lib/fmt"
)

// deviceFilter is the eBPF program that decides about a group's devices; there
// is no file for it in cgroup v2.
type deviceFilter struct {
	mu      sync.Mutex
	program int // descriptor of the attached program; 0: none yet
}

// Access to a device, enum bpf_devcg in include/uapi/linux/bpf.h.
const (
	deviceBlock = 1
	deviceChar  = 2

	accessMknod = 1
	accessRead  = 2
	accessWrite = 4
	accessAll   = accessMknod | accessRead | accessWrite
)

// deviceRule allows or denies some accesses to some devices.
type deviceRule struct {
	allow        bool
	kind         uint32 // deviceBlock, deviceChar or 0 for both
	major, minor int64  // -1 for any
	access       uint32
}

// defaultDevices are allowed to every container, whatever its rules say: the
// devices that every container has, its own terminals, and the making of nodes,
// which by itself gives no access.
var defaultDevices = [...]deviceRule{
	{allow: true, kind: deviceChar, major: -1, minor: -1, access: accessMknod},
	{allow: true, kind: deviceBlock, major: -1, minor: -1, access: accessMknod},
	{allow: true, kind: deviceChar, major: 1, minor: 3, access: accessAll},    // null
	{allow: true, kind: deviceChar, major: 1, minor: 5, access: accessAll},    // zero
	{allow: true, kind: deviceChar, major: 1, minor: 7, access: accessAll},    // full
	{allow: true, kind: deviceChar, major: 1, minor: 8, access: accessAll},    // random
	{allow: true, kind: deviceChar, major: 1, minor: 9, access: accessAll},    // urandom
	{allow: true, kind: deviceChar, major: 5, minor: 0, access: accessAll},    // tty
	{allow: true, kind: deviceChar, major: 5, minor: 2, access: accessAll},    // ptmx
	{allow: true, kind: deviceChar, major: 136, minor: -1, access: accessAll}, // pts
}

func parseRule(r *ocipb.LinuxDeviceCgroup) (deviceRule, error) {
	rule := deviceRule{allow: r.Allow, major: r.Major, minor: r.Minor}
	switch r.Type {
	case "", "a":
		// "a" covers all devices whatever numbers are beside it, as in v1.
		rule.major, rule.minor = -1, -1
	case "b":
		rule.kind = deviceBlock
	case "c":
		rule.kind = deviceChar
	default:
		return rule, fmt.Errorf("device rule of unknown type %q", r.Type)
	}
	const most = 1<<32 - 1
	if r.Major < -1 || r.Major > most || r.Minor < -1 || r.Minor > most {
		return rule, fmt.Errorf("device rule with the impossible number %d:%d", r.Major, r.Minor)
	}
	for _, c := range r.Access {
		i := strings.IndexRune("mrw", c)
		if i < 0 {
			return rule, fmt.Errorf("device rule with unknown access %q", r.Access)
		}
		rule.access |= 1 << i
	}
	if rule.access == 0 {
		rule.access = accessAll
	}
	return rule, nil
}

// apply replaces the group's rules.
func (f *deviceFilter) apply(cgroup int, rules []*ocipb.LinuxDeviceCgroup) error {
	parsed := make([]deviceRule, 0, len(rules)+len(defaultDevices))
	for _, r := range rules {
		rule, err := parseRule(r)
		if err != nil {
			return err
		}
		parsed = append(parsed, rule)
	}
	code := compile(append(parsed, defaultDevices[:]...))

	f.mu.Lock()
	defer f.mu.Unlock()
	program, err := loadProgram(code)
	if err != nil {
		return fmt.Errorf("load device rules: %w", err)
	}
	if err := attachProgram(cgroup, program, f.program); err != nil {
		unix.Close(program)
		return fmt.Errorf("attach device rules: %w", err)
	}
	if f.program != 0 {
		unix.Close(f.program)
	}
	f.program = program
	return nil
}

// close releases the program; the kernel detaches it with the group.
func (f *deviceFilter) close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.program != 0 {
		unix.Close(f.program)
		f.program = 0
	}
}

// instruction is struct bpf_insn; regs is the destination in the low and the
// source in the high four bits.
type instruction struct {
	code   uint8
	regs   uint8
	offset int16
	value  int32
}

// Opcodes of include/uapi/linux/bpf.h, on 32-bit operands where there is one.
const (
	opLoad      = 0x61 // BPF_LDX | BPF_W | BPF_MEM
	opMoveReg   = 0xbc // BPF_ALU | BPF_MOV | BPF_X
	opMove      = 0xb7 // BPF_ALU64 | BPF_MOV | BPF_K
	opAnd       = 0x54 // BPF_ALU | BPF_AND | BPF_K
	opShift     = 0x74 // BPF_ALU | BPF_RSH | BPF_K
	opJumpNotEq = 0x56 // BPF_JMP32 | BPF_JNE | BPF_K
	opJumpSet   = 0x46 // BPF_JMP32 | BPF_JSET | BPF_K
	opJump      = 0x05 // BPF_JMP | BPF_JA
	opExit      = 0x95 // BPF_JMP | BPF_EXIT
)

// Registers of the program.
const (
	regResult  = 0
	regContext = 1
	regKind    = 2
	regAccess  = 3 // accesses that no rule has decided yet
	regMajor   = 4
	regMinor   = 5
)

// compile makes the program. For each access that is asked for, the last rule
// that covers it decides, and what no rule covers is denied: the rules are
// tried from the last to the first, allowed accesses are crossed off, and a
// denied one ends it. All must be allowed.
func compile(rules []deviceRule) []instruction {
	// struct bpf_cgroup_dev_ctx: access<<16 | type, major, minor.
	code := []instruction{
		{code: opLoad, regs: regAccess | regContext<<4},
		{code: opMoveReg, regs: regKind | regAccess<<4},
		{code: opAnd, regs: regKind, value: 0xffff},
		{code: opShift, regs: regAccess, value: 16},
		{code: opLoad, regs: regMajor | regContext<<4, offset: 4},
		{code: opLoad, regs: regMinor | regContext<<4, offset: 8},
	}
	for i := len(rules) - 1; i >= 0; i-- {
		code = append(code, compileRule(rules[i])...)
		if r := rules[i]; r.kind == 0 && r.access == accessAll {
			break // it decides everything, so nothing below it counts
		}
	}
	return append(code, verdict(false)...)
}

func compileRule(r deviceRule) []instruction {
	var effect []instruction
	if r.allow {
		effect = append([]instruction{
			{code: opAnd, regs: regAccess, value: int32(^r.access & accessAll)},
			{code: opJumpNotEq, regs: regAccess, offset: 2}, // past the verdict
		}, verdict(true)...)
	} else {
		effect = append([]instruction{
			{code: opJumpSet, regs: regAccess, offset: 1, value: int32(r.access)},
			{code: opJump, offset: 2}, // past the verdict
		}, verdict(false)...)
	}
	var code []instruction
	test := func(reg uint8, value int64, wanted bool) {
		if wanted {
			code = append(code, instruction{code: opJumpNotEq, regs: reg, value: int32(value)})
		}
	}
	test(regKind, int64(r.kind), r.kind != 0)
	test(regMajor, r.major, r.major >= 0)
	test(regMinor, r.minor, r.minor >= 0)
	for i := range code { // a test that fails leads behind the rule
		code[i].offset = int16(len(code) - i - 1 + len(effect))
	}
	return append(code, effect...)
}

func verdict(allow bool) []instruction {
	result := instruction{code: opMove, regs: regResult}
	if allow {
		result.value = 1
	}
	return []instruction{result, {code: opExit}}
}

// Numbers of include/uapi/linux/bpf.h.
const (
	bpfProgLoad     = 5
	bpfProgAttach   = 8
	bpfCgroupDevice = 15 // enum bpf_prog_type
	bpfAttachDevice = 6  // enum bpf_attach_type
	bpfAllowMulti   = 1 << 1
	bpfReplace      = 1 << 2
)

func loadProgram(code []instruction) (int, error) {
	license := []byte("Apache-2.0\x00")
	attr := struct {
		kind, count   uint32
		instructions  uint64
		license       uint64
		logLevel      uint32
		logSize       uint32
		log           uint64
		kernelVersion uint32
		flags         uint32
	}{
		kind:         bpfCgroupDevice,
		count:        uint32(len(code)),
		instructions: uint64(uintptr(unsafe.Pointer(&code[0]))),
		license:      uint64(uintptr(unsafe.Pointer(&license[0]))),
	}
	fd, err := bpf(bpfProgLoad, unsafe.Pointer(&attr), unsafe.Sizeof(attr))
	runtime.KeepAlive(code)
	runtime.KeepAlive(license)
	return fd, err
}

// attachProgram attaches a program to a group, in the place of old if that is
// not 0.
func attachProgram(cgroup, program, old int) error {
	attr := struct {
		target, program, kind, flags, replace uint32
	}{target: 0, program: uint32(program), kind: bpfAttachDevice, flags: bpfAllowMulti}
	if old != 0 {
		attr.flags |= bpfReplace
		attr.replace = uint32(old)
	}
	// The kernel wants a descriptor that is open for more than its path.
	dir, err := unix.Openat(cgroup, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(dir)
	attr.target = uint32(dir)
	_, err = bpf(bpfProgAttach, unsafe.Pointer(&attr), unsafe.Sizeof(attr))
	return err
}

// bpf is bpf(2). The verifier answers EAGAIN when a signal interrupts it.
func bpf(command int, attr unsafe.Pointer, size uintptr) (int, error) {
	for {
		n, _, errno := unix.Syscall(unix.SYS_BPF, uintptr(command), uintptr(attr), size)
		if errno == 0 {
			return int(n), nil
		}
		if err := error(errno); !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR) {
			return -1, err
		}
	}
}
