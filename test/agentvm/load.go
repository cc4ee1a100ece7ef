package agentvm

import (
	"fmt"
	"io"
	"time"

	"kata/api/healthpb"
	"kata/test/pace"
)

// Calls makes n calls that do nothing, one after the other.
func (v *VM) Calls(n int) {
	v.Helper()
	for range n {
		if _, err := v.Health.Check(v.Context(), &healthpb.CheckRequest{}); err != nil {
			v.dead(err)
		}
	}
}

// Execs runs n processes with all streams in a container, one after the other.
func (v *VM) Execs(id string, n int) {
	v.Helper()
	for range n {
		v.execs++
		execID := fmt.Sprintf("exec%d", v.execs)
		s := Streams{Stdin: v.Stream(), Stdout: v.Stream(), Stderr: v.Stream()}
		if err := v.Exec(id, execID, Process("true"), s); err != nil {
			v.dead(err)
		}
		if exit := v.Wait(id, execID); exit.Status != 0 {
			v.Fatalf("true ended with %d", exit.Status)
		}
		_, _, _ = s.Stdin.Close(), s.Stdout.Close(), s.Stderr.Close()
	}
}

// Pour lets a process in a container write so many MiB, and reads them.
func (v *VM) Pour(id string, mib int64) {
	v.Helper()
	v.execs++
	execID := fmt.Sprintf("exec%d", v.execs)
	s := Streams{Stdout: v.Stream()}
	if err := v.Exec(id, execID, Process("dd", "if=/dev/zero", "bs=65536", fmt.Sprintf("count=%d", mib*16)), s); err != nil {
		v.dead(err)
	}
	if n, err := io.Copy(io.Discard, s.Stdout); err != nil || n != mib<<20 {
		v.Fatalf("%d MiB were to come, %d bytes came: %v", mib, n, err)
	}
	v.Wait(id, execID)
	_ = s.Stdout.Close()
}

const (
	// lookAgain is how often memory is looked at; each look wakes the agent.
	lookAgain = 3 * time.Second
	// settleLimit bounds the wait for the agent to give memory back.
	settleLimit = 90 * time.Second
)

// Await looks at the agent's memory until enough of it has been given back, or
// for so long that it never will, and returns what it has seen last.
func (p *Probe) Await(enough func(Memory) bool) Memory {
	p.v.Helper()
	for deadline := time.Now().Add(pace.Of(settleLimit)); ; {
		time.Sleep(lookAgain) // it is idleness that is waited for
		if m := p.Memory(); enough(m) || time.Now().After(deadline) {
			return m
		}
	}
}

// Settled looks at the agent's memory until it does not change any more, but for
// what comes and goes with each look.
func (p *Probe) Settled() Memory {
	p.v.Helper()
	const slack = 128 << 10 // a look takes a buffer of a stream
	var before [3]Memory
	return p.Await(func(m Memory) bool {
		steady := true
		for _, b := range before {
			steady = steady && b.Anonymous-m.Anonymous < slack && m.Anonymous-b.Anonymous < slack
		}
		copy(before[:], before[1:])
		before[len(before)-1] = m
		return steady
	})
}
