package seccomp

import (
	"maps"
	"math"
	"slices"

	"golang.org/x/sys/unix"
)

// abi is a way into an x86 kernel; each has its own numbers.
type abi int

const (
	x8664 abi = iota
	i386
	x32
)

// x32Bit distinguishes the numbers of x32 from those of x86_64; the kernel
// reports both with the architecture AUDIT_ARCH_X86_64 (asm/unistd.h).
const x32Bit = 1 << 30

// wide says whether an abi's arguments have 64 bits.
func (a abi) wide() bool { return a == x8664 }

// span is a range of system call numbers with one verdict; it reaches up to
// the next span. Spans cover all numbers.
type span struct {
	first   uint32
	verdict verdict
}

// verdict is what a call gets: the action of the first of the alternatives
// that matches, else the action.
type verdict struct {
	action       uint32
	alternatives []alternative
}

type alternative struct {
	action     uint32
	conditions []condition
	wide       bool
}

// native returns what AUDIT_ARCH_X86_64 is to do.
func (p *policy) native() []span {
	verdicts := p.verdicts(x8664)
	base := p.base(0, p.newest(x8664))
	if p.abis[x32] {
		maps.Copy(verdicts, p.verdicts(x32))
		base = append(base, p.base(x32Bit, p.newest(x32))...)
	} else {
		// A tracer skips a call by making it number -1, which is of no
		// architecture.
		base = append(base, span{x32Bit, verdict{action: foreign}}, span{math.MaxUint32, verdict{action: p.fallback}})
	}
	return overlay(base, verdicts)
}

// compat returns what AUDIT_ARCH_I386 is to do.
func (p *policy) compat() []span {
	return overlay(p.base(0, p.newest(i386)), p.verdicts(i386))
}

// newest returns the highest number that the profile names, or -1.
func (p *policy) newest(on abi) int64 {
	newest := int64(-1)
	for _, r := range p.rules {
		if nr, ok := number(r.name, on); ok {
			newest = max(newest, int64(nr))
		}
		if nr, _, ok := multiplexed(r.name); ok && on == i386 {
			newest = max(newest, int64(nr))
		}
	}
	return newest
}

// base returns what the numbers from first on get without any rule.
func (p *policy) base(first uint32, newest int64) []span {
	spans := []span{{first, verdict{action: p.fallback}}}
	if newest >= 0 && p.answersNewer() {
		spans = append(spans, span{uint32(newest) + 1, verdict{action: newerThanProfile}})
	}
	return spans
}

// verdicts returns what the rules say about numbers.
func (p *policy) verdicts(on abi) map[uint32]verdict {
	decided := make(map[uint32]verdict)
	for _, r := range p.rules {
		if r.action == p.fallback {
			continue
		}
		if nr, ok := number(r.name, on); ok {
			p.decide(decided, nr, r, on)
		}
		if on != i386 {
			continue
		}
		if nr, call, ok := multiplexed(r.name); ok {
			r.conditions = slices.DeleteFunc(slices.Clone(r.conditions), func(c condition) bool { return c.argument == 0 })
			r.conditions = append(r.conditions, condition{mask: math.MaxUint64, value: call})
			p.decide(decided, nr, r, on)
		}
	}
	return decided
}

// decide adds a rule to those about a number.
func (p *policy) decide(decided map[uint32]verdict, nr uint32, r rule, on abi) {
	before, exists := decided[nr]
	a := alternative{r.action, r.conditions, on.wide()}.simplified()
	switch {
	case exists && len(before.alternatives) == 0:
		if before.action != a.action {
			p.ignore("a rule for %s: an earlier one without conditions prevails", r.name)
		}
	case len(a.conditions) == 0:
		if slices.ContainsFunc(before.alternatives, func(b alternative) bool { return b.action != a.action }) {
			p.ignore("rules for %s with conditions: the one without prevails", r.name)
		}
		decided[nr] = verdict{action: a.action}
	default:
		before.action = p.fallback
		before.alternatives = append(before.alternatives, a)
		decided[nr] = before
	}
}

// simplified leaves out the conditions that always hold.
func (a alternative) simplified() alternative {
	a.conditions = slices.DeleteFunc(slices.Clone(a.conditions), func(c condition) bool {
		return c.mask == 0 || !a.wide && uint32(c.mask) == 0
	})
	return a
}

// overlay puts single numbers on top of spans, which are sorted, and joins
// neighbours that agree.
func overlay(base []span, numbers map[uint32]verdict) []span {
	var spans []span
	add := func(first uint32, v verdict) {
		if n := len(spans); n > 0 {
			last := spans[n-1].verdict
			if last.action == v.action && len(last.alternatives)+len(v.alternatives) == 0 {
				return
			}
		}
		spans = append(spans, span{first, v})
	}
	sorted := slices.Sorted(maps.Keys(numbers))
	for i, s := range base {
		end := uint64(math.MaxUint32) + 1
		if i+1 < len(base) {
			end = uint64(base[i+1].first)
		}
		next := uint64(s.first)
		for len(sorted) > 0 && uint64(sorted[0]) < end {
			nr := sorted[0]
			sorted = sorted[1:]
			if next < uint64(nr) {
				add(uint32(next), s.verdict)
			}
			add(nr, numbers[nr])
			next = uint64(nr) + 1
		}
		if next < end {
			add(uint32(next), s.verdict)
		}
	}
	return spans
}

// program translates the policy.
func (p *policy) program() []instruction {
	program := []instruction{{code: unix.BPF_RET | unix.BPF_K, k: foreign}}
	if p.abis[i386] {
		program = branch(unix.BPF_JEQ, unix.AUDIT_ARCH_I386, dispatch(p.compat()), program)
	}
	program = branch(unix.BPF_JEQ, unix.AUDIT_ARCH_X86_64, dispatch(p.native()), program)
	return slices.Insert(program, 0, load(offsetArch))
}
