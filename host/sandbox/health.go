package sandbox

import (
	"context"
	"fmt"
	"time"

	"kata/api/healthpb"
)

// A guest that hangs keeps its VMM alive and its connections open, so it is
// asked now and then. The bound is wide: a host that is merely slow, with many
// pods starting at once, must not lose one.
const (
	checkInterval = 30 * time.Second
	checkTimeout  = 60 * time.Second
)

// watchHealth returns a channel that receives the reason when the agent has
// not answered for checkTimeout. The asking ends with the sandbox.
func (s *Sandbox) watchHealth() <-chan error {
	sick := make(chan error, 1)
	go func() {
		ticker := time.NewTicker(checkInterval)
		defer ticker.Stop()
		for {
			select {
			case <-s.done:
				return
			case <-ticker.C:
			}
			ctx, cancel := context.WithTimeout(context.Background(), checkTimeout)
			_, err := s.agent.health.Check(ctx, &healthpb.CheckRequest{})
			cancel()
			if err != nil {
				sick <- fmt.Errorf("the agent did not answer within %s: %w", checkTimeout, agentError(err))
				return
			}
		}
	}()
	return sick
}
