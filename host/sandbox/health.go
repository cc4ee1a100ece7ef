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
// not answered for checkTimeout. An answer with an error is an answer: who gives it
// lives. The asking ends with the sandbox, and when the connection is lost, which is
// another's to notice.
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
			if err := s.checkHealth(); err != nil {
				sick <- err
				return
			}
		}
	}()
	return sick
}

// checkHealth returns an error when the agent has not answered in time.
func (s *Sandbox) checkHealth() error {
	ctx, cancel := context.WithTimeout(context.Background(), checkTimeout)
	defer cancel()
	_, err := s.agent.health.Check(ctx, &healthpb.CheckRequest{})
	if answered(err) || ctx.Err() == nil {
		return nil
	}
	return fmt.Errorf("the agent did not answer within %s: %w", checkTimeout, err)
}
