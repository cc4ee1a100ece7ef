package task

import (
	"context"
	"log/slog"
)

// What tests outside of the package have to know.
const (
	FlushTimeout   = flushTimeout
	DrainTimeout   = drainTimeout
	LastExecs      = lastExecs
	StatusNeverRan = statusNeverRan
)

// ToStatus is toStatus.
var ToStatus = toStatus

// AwaitGone returns what waits for the end of a process, as Wait does.
func (s *Service) AwaitGone(id, execID string) (func(context.Context) error, error) {
	_, p, err := s.process(id, execID)
	if err != nil {
		return nil, err
	}
	return p.awaitGone, nil
}

// AwaitWatchers returns when nothing is watched any more.
func (s *Service) AwaitWatchers() { s.watching.Wait() }

// SetLog changes where the service logs to.
func (s *Service) SetLog(log *slog.Logger) { s.cfg.Log = log }

// SetPublish changes who is told of events.
func (s *Service) SetPublish(publish Publish) { s.cfg.Publish = publish }
