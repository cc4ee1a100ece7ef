//go:build vmtest

package container

import (
	"fmt"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"kata/api/ocipb"
	"kata/guest/container/plan"
)

// Execs that are on their way into a container while all of it is killed do not
// stay behind, also where no pid namespace takes them along.
func TestKillReachesExecsOnTheirWay(t *testing.T) {
	rt := testRuntime(t)
	owner := sleeper(t, rt)
	for round := range 10 {
		spec := in(makeRootfs(t), "exec sleep 100000", withoutNamespace("pid"))
		c, err := createSpec(testContext(t), rt, fmt.Sprintf("joins%d", round), spec, Stdio{}, Options{JoinPID: owner})
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Start(testContext(t)); err != nil {
			t.Fatal(err)
		}
		var execs sync.WaitGroup
		for range 3 {
			execs.Go(func() {
				p, err := execAs(testContext(t), c, "x", &ocipb.Process{Args: []string{"sleep", "100000"}, Cwd: "/"}, plan.Names{}, Stdio{})
				if err == nil { // else it was killed before
					wait(t, p)
				}
			})
		}
		if err := c.SignalAll(unix.SIGKILL); err != nil {
			t.Error(err)
		}
		wait(t, c.Init())
		execs.Wait()
		if pids, err := c.Pids(); err != nil || len(pids) != 0 {
			t.Errorf("processes %v, %v", pids, err)
		}
		if err := c.Destroy(testContext(t)); err != nil {
			t.Error(err)
		}
	}
}

// A kill of the whole container reaches its first process on its way, too.
func TestKillReachesTheFirstProcessOnItsWay(t *testing.T) {
	rt := testRuntime(t)
	for range 10 {
		c, _, err := create(t, rt, defaultSpec(makeRootfs(t), "exec sleep 100000"))
		if err != nil {
			t.Fatal(err)
		}
		started := make(chan error)
		go func() { started <- c.Start(testContext(t)) }()
		if err := c.SignalAll(unix.SIGKILL); err != nil {
			t.Error(err)
		}
		<-started // it may have come first or not
		if status := wait(t, c.Init()); status != 137 {
			t.Errorf("status %d", status)
		}
	}
}
