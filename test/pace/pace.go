// Package pace stretches the deadlines of tests to the speed of the machine: a
// deadline says how long something may take on an idle machine of today, and a
// machine that is slow, emulated or busy with other work gets as much more as it
// needs. It is the one place that knows how much.
//
// Speed is measured, by wall time of a fixed piece of work: so a second program on
// each processor counts as half the speed. It is measured again when the last
// measurement is older than a few seconds, since load comes and goes.
//
// Deadlines only end a test that hangs: a test that is in order awaits events and
// takes as long as it takes. No test may assert that something is fast.
package pace

import (
	"crypto/sha256"
	"runtime"
	"sync"
	"time"
)

const (
	// reference is what the work takes on an idle machine with 2 cores of 2020.
	reference = 4 * time.Millisecond
	// most bounds the factor: a hang has to end some time.
	most = 30
	// fresh is how long a measurement counts.
	fresh = 5 * time.Second
	// reserve is added to every factor: load that comes right after it was measured.
	reserve = 2
)

// last is the last measurement. Tests of a program share it.
var last struct {
	sync.Mutex
	at     time.Time
	factor float64
}

// Of returns how long to wait for something that takes less than d on an idle
// machine.
func Of(d time.Duration) time.Duration { return time.Duration(float64(d) * Factor()) }

// Factor returns by how much deadlines are stretched now.
func Factor() float64 {
	last.Lock()
	defer last.Unlock()
	if last.factor == 0 || time.Since(last.at) > fresh {
		last.factor = factor(work())
		last.at = time.Now()
	}
	return last.factor
}

func factor(took time.Duration) float64 {
	return min(most, reserve*max(1, float64(took)/float64(reference)))
}

// work returns the wall time of a fixed piece of work on every processor.
func work() time.Duration {
	start := time.Now()
	var all sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		all.Go(func() {
			block := make([]byte, 64<<10)
			for range 32 {
				sum := sha256.Sum256(block)
				copy(block, sum[:])
			}
		})
	}
	all.Wait()
	return time.Since(start)
}
