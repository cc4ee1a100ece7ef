package seccomp

import (
	"encoding/binary"
	"math"

	"golang.org/x/sys/unix"
)

// instruction is struct sock_filter (linux/filter.h).
type instruction struct {
	code   uint16
	jt, jf uint8
	k      uint32
}

// encode lays instructions out as the kernel reads them.
func encode(program []instruction) []byte {
	out := make([]byte, 0, 8*len(program))
	for _, i := range program {
		out = binary.NativeEndian.AppendUint16(out, i.code)
		out = append(out, i.jt, i.jf)
		out = binary.NativeEndian.AppendUint32(out, i.k)
	}
	return out
}

// Where struct seccomp_data (linux/seccomp.h) has its fields; the arguments
// are little-endian numbers of 64 bits.
const (
	offsetNumber    = 0
	offsetArch      = 4
	offsetArguments = 16
)

func load(offset uint32) instruction {
	return instruction{code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, k: offset}
}

func ret(action uint32) instruction {
	return instruction{code: unix.BPF_RET | unix.BPF_K, k: action}
}

func jump(test uint16, k uint32, jt, jf uint8) instruction {
	return instruction{code: unix.BPF_JMP | unix.BPF_K | test, jt: jt, jf: jf, k: k}
}

// branch compares the accumulator with k and goes to one of two pieces of
// code, neither of which comes to its end. A conditional jump reaches 255
// instructions; where that is not enough, an unconditional one helps.
func branch(test uint16, k uint32, yes, no []instruction) []instruction {
	program := make([]instruction, 0, 2+len(yes)+len(no))
	if len(yes) <= math.MaxUint8 {
		program = append(program, jump(test, k, 0, uint8(len(yes))))
	} else {
		program = append(program, jump(test, k, 1, 0),
			instruction{code: unix.BPF_JMP | unix.BPF_JA, k: uint32(len(yes))})
	}
	return append(append(program, yes...), no...)
}

// dispatch loads the number of the call and finds its span.
func dispatch(spans []span) []instruction {
	return append([]instruction{load(offsetNumber)}, search(spans)...)
}

// search is a binary search in code.
func search(spans []span) []instruction {
	if len(spans) == 1 {
		return spans[0].verdict.code()
	}
	middle := len(spans) / 2
	return branch(unix.BPF_JGE, spans[middle].first, search(spans[middle:]), search(spans[:middle]))
}

func (v verdict) code() []instruction {
	var program []instruction
	for _, a := range v.alternatives {
		program = append(program, a.code()...)
	}
	return append(program, ret(v.action))
}

// Places that the jumps of a comparison go to, until it is known how far away
// they are. A comparison is at most six instructions long.
const (
	onward = 0    // the next instruction
	accept = 0xfe // the end of the comparison
	reject = 0xff // the end of the alternative
)

// code returns the action if all conditions hold, and else reaches its end.
func (a alternative) code() []instruction {
	var program []instruction
	var ends []int // for each instruction, where its comparison ends
	for _, c := range a.conditions {
		comparison := c.code(a.wide)
		end := len(program) + len(comparison)
		for range comparison {
			ends = append(ends, end)
		}
		program = append(program, comparison...)
	}
	program = append(program, ret(a.action))
	for i, end := range ends {
		resolve := func(target *uint8) {
			switch *target {
			case accept:
				*target = uint8(end - i - 1)
			case reject:
				*target = uint8(len(program) - i - 1) // at most 6 times 6
			}
		}
		if in := &program[i]; in.code&0x07 == unix.BPF_JMP {
			resolve(&in.jt)
			resolve(&in.jf)
		}
	}
	return program
}

// code compares the halves of an argument, for there are no registers of 64
// bits.
func (c condition) code(wide bool) []instruction {
	low := offsetArguments + 8*uint32(c.argument)
	high := low + 4
	var program []instruction
	if wide {
		program = c.half(high, uint32(c.mask>>32), c.upper())
	}
	return append(program, c.half(low, uint32(c.mask), c.lower())...)
}

// half loads and masks one half, and compares it. A half that is masked out
// needs nothing.
func (c condition) half(offset, mask uint32, tests []instruction) []instruction {
	switch mask {
	case 0:
		return nil
	case math.MaxUint32:
		return append([]instruction{load(offset)}, tests...)
	}
	and := instruction{code: unix.BPF_ALU | unix.BPF_AND | unix.BPF_K, k: mask}
	return append([]instruction{load(offset), and}, tests...)
}

// upper decides by the upper half, or leaves it to the lower one.
func (c condition) upper() []instruction {
	value := uint32(c.value >> 32)
	equalOr := func(otherwise uint8) instruction { return jump(unix.BPF_JEQ, value, onward, otherwise) }
	switch c.operator {
	case equal:
		return []instruction{equalOr(reject)}
	case notEqual:
		return []instruction{equalOr(accept)}
	case less, lessOrEqual:
		return []instruction{jump(unix.BPF_JGT, value, reject, onward), equalOr(accept)}
	default:
		return []instruction{jump(unix.BPF_JGT, value, accept, onward), equalOr(reject)}
	}
}

func (c condition) lower() []instruction {
	value := uint32(c.value)
	switch c.operator {
	case equal:
		return []instruction{jump(unix.BPF_JEQ, value, onward, reject)}
	case notEqual:
		return []instruction{jump(unix.BPF_JEQ, value, reject, onward)}
	case less:
		return []instruction{jump(unix.BPF_JGE, value, reject, onward)}
	case lessOrEqual:
		return []instruction{jump(unix.BPF_JGT, value, reject, onward)}
	case greater:
		return []instruction{jump(unix.BPF_JGT, value, onward, reject)}
	default:
		return []instruction{jump(unix.BPF_JGE, value, onward, reject)}
	}
}
