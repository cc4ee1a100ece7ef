package sandbox

// past is what stays known of an exec that has ended and whose exit somebody has
// asked for: little, and all in one place, since what is scattered over the heap
// holds the pages around it.
type past struct {
	execID string
	exit   Exit
}

// forgetEnded turns p into the past when there is nothing left to do for it. What was
// served by calls stays until it is pruned: its output may still be read.
func (c *Container) forgetEnded(p *Process) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !p.forgettable(true) || p.running.Load() != nil || p == c.init || c.processes[p.execID] != p {
		return
	}
	c.drop(p)
	if c.past == nil {
		c.past = make([]past, 0, keepExited)
	}
	if len(c.past) == keepExited {
		copy(c.past, c.past[1:])
		c.past = c.past[:keepExited-1]
	}
	c.past = append(c.past, past{p.execID, p.exit})
}

// remember returns an exec that has ended, the last one of that name, or nil. It
// needs mu.
func (c *Container) remember(execID string) *Process {
	for i := len(c.past) - 1; i >= 0; i-- {
		if c.past[i].execID == execID {
			p := &Process{container: c, execID: execID, exited: make(chan struct{}), exit: c.past[i].exit}
			close(p.exited)
			return p
		}
	}
	return nil
}
