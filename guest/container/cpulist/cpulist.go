// Package cpulist reads and writes lists of processors or memory nodes, such as
// "0-3,7" (cpuset(7), "List format"), and maps those of a host to what the guest
// has.
package cpulist

import (
	"strconv"
	"strings"

	"kata/lib/fmt"
)

// Limit is above every number in a Set: as many processors as an x86 kernel can
// have (NR_CPUS).
const Limit = 8192

// Set is a set of numbers below Limit, in the form of sched_setaffinity(2).
type Set [Limit / 64]uint64

// Parse returns the numbers of a list. Empty ones are no list.
func Parse(list string) (*Set, error) {
	s := &Set{}
	return s, Each(list, Limit, func(n int) { s.add(n) })
}

// Each calls f for each number of a list; all are below limit.
func Each(list string, limit int, f func(n int)) error {
	for part := range strings.SplitSeq(list, ",") {
		first, last, isRange := strings.Cut(strings.TrimSpace(part), "-")
		if !isRange {
			last = first
		}
		from, err1 := strconv.ParseUint(first, 10, 32)
		to, err2 := strconv.ParseUint(last, 10, 32)
		if err1 != nil || err2 != nil || from > to {
			return fmt.Errorf("%q is not a list of numbers and ranges", list)
		}
		if to >= uint64(limit) {
			return fmt.Errorf("%q goes beyond %d", list, limit-1)
		}
		for n := from; n <= to; n++ {
			f(int(n))
		}
	}
	return nil
}

func (s *Set) add(n int)      { s[n/64] |= 1 << (n % 64) }
func (s *Set) has(n int) bool { return s[n/64]>>(n%64)&1 != 0 }

func (s *Set) numbers() (all []int) {
	for n := range Limit {
		if s.has(n) {
			all = append(all, n)
		}
	}
	return all
}

// Onto returns s as a part of have: a number that have lacks stands for one that
// it has, of k numbers that at the place of its remainder by k. So a range of a
// host's processors becomes as many of the guest's, if there are as many, and
// different ones become different ones as far as possible. An empty have gives s.
func (s *Set) Onto(have *Set) *Set {
	there := have.numbers()
	if len(there) == 0 {
		return s
	}
	mapped := &Set{}
	for _, n := range s.numbers() {
		if !have.has(n) {
			n = there[n%len(there)]
		}
		mapped.add(n)
	}
	return mapped
}

// String returns the list.
func (s *Set) String() string {
	var b []byte
	for n := 0; n < Limit; n++ {
		if !s.has(n) {
			continue
		}
		if len(b) > 0 {
			b = append(b, ',')
		}
		b = strconv.AppendInt(b, int64(n), 10)
		first := n
		for n+1 < Limit && s.has(n+1) {
			n++
		}
		if n > first {
			b = strconv.AppendInt(append(b, '-'), int64(n), 10)
		}
	}
	return string(b)
}

// Map returns list as a part of the list have; see [Set.Onto].
func Map(list, have string) (string, error) {
	s, err := Parse(list)
	if err != nil {
		return "", err
	}
	there, err := Parse(have)
	if err != nil {
		return "", err
	}
	return s.Onto(there).String(), nil
}
