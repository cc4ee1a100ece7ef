package sandbox

import (
	"fmt"
	"time"
)

// mustEnd gives a container's first process, which is being sent SIGKILL, its last
// time to end. Whatever the agent answers, a process that does not end by then is
// held by a guest that does not work or does not want to: the machine is stopped,
// and everything in it reported as killed. The first call counts.
func (p *Process) mustEnd() {
	limit := p.container.sandbox.cfg.KillTimeout
	if limit <= 0 {
		return
	}
	p.killOnce.Do(func() {
		go func() {
			timer := time.NewTimer(limit)
			defer timer.Stop()
			select {
			case <-p.exited:
			case <-p.removed():
			case <-p.container.sandbox.done:
			case <-timer.C:
				p.container.sandbox.condemn(fmt.Errorf("%s did not end within %s of SIGKILL", p, limit))
			}
		}()
	})
}

// condemn has the sandbox ended for the reason; the first one counts.
func (s *Sandbox) condemn(reason error) {
	select {
	case s.condemned <- reason:
	default:
	}
}
