package seccomp

import (
	"encoding/binary"

	"golang.org/x/sys/unix"

	"kata/lib/fmt"
)

// check finds out whether the kernel would take a program, but for reads of
// scratch memory that was not written (bpf_check_classic in net/core/filter.c,
// seccomp_check_filter in kernel/seccomp.c).
func check(program []byte) error {
	n := len(program) / instruction
	for pc := range n {
		b := program[pc*instruction:]
		code, jt, jf, k := binary.NativeEndian.Uint16(b), int(b[2]), int(b[3]), binary.NativeEndian.Uint32(b[4:])
		left := n - pc - 1 // instructions behind this one
		ok := false
		switch code & 0x07 { // BPF_CLASS
		case unix.BPF_LD, unix.BPF_LDX:
			ok = checkLoad(code, k)
		case unix.BPF_ST, unix.BPF_STX:
			ok = code&^0x07 == 0 && k < unix.BPF_MEMWORDS
		case unix.BPF_ALU:
			ok = checkALU(code, k)
		case unix.BPF_JMP:
			if code == unix.BPF_JMP|unix.BPF_JA {
				ok = uint64(k) < uint64(left)
				break
			}
			op := code & 0xf0
			ok = code&^0xff == 0 && op >= unix.BPF_JEQ && op <= unix.BPF_JSET && jt < left && jf < left
		case unix.BPF_RET:
			ok = code == unix.BPF_RET|unix.BPF_K || code == unix.BPF_RET|unix.BPF_A
		case unix.BPF_MISC:
			ok = code == unix.BPF_MISC|unix.BPF_TAX || code == unix.BPF_MISC|unix.BPF_TXA
		}
		if !ok {
			return fmt.Errorf("instruction %d (code %#x, %d, %d, %#x) is not possible", pc, code, jt, jf, k)
		}
		if left == 0 && code&0x07 != unix.BPF_RET {
			return fmt.Errorf("instruction %d, the last, is no return", pc)
		}
	}
	return nil
}

// checkLoad checks loads: of a word of struct seccomp_data, of its length, of a
// constant, of scratch memory.
func checkLoad(code uint16, k uint32) bool {
	const data = 64       // bytes
	switch code &^ 0x01 { // LD or LDX
	case unix.BPF_LD | unix.BPF_W | unix.BPF_LEN, unix.BPF_LD | unix.BPF_IMM:
		return true
	case unix.BPF_LD | unix.BPF_MEM:
		return k < unix.BPF_MEMWORDS
	}
	return code == unix.BPF_LD|unix.BPF_W|unix.BPF_ABS && k < data && k%4 == 0
}

func checkALU(code uint16, k uint32) bool {
	if code&^0xff != 0 {
		return false
	}
	constant := code&unix.BPF_X == 0
	switch code & 0xf0 { // BPF_OP
	case unix.BPF_ADD, unix.BPF_SUB, unix.BPF_MUL, unix.BPF_OR, unix.BPF_AND, unix.BPF_XOR:
		return true
	case unix.BPF_DIV:
		return !constant || k != 0
	case unix.BPF_LSH, unix.BPF_RSH:
		return !constant || k < 32
	case unix.BPF_NEG:
		return constant
	}
	return false
}
