package task

import (
	"github.com/containerd/containerd/api/events"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// Topics of containerd's task events.
const (
	topicCreate      = "/tasks/create"
	topicStart       = "/tasks/start"
	topicExit        = "/tasks/exit"
	topicDelete      = "/tasks/delete"
	topicExecAdded   = "/tasks/exec-added"
	topicExecStarted = "/tasks/exec-started"
	topicPaused      = "/tasks/paused"
	topicResumed     = "/tasks/resumed"
)

// exited records and publishes the end of a process, once.
func (s *Service) exited(p *process, e Exit) {
	if !p.end(e) {
		return
	}
	id := p.execID
	if id == "" {
		id = p.containerID
	}
	s.cfg.Publish(topicExit, &events.TaskExit{
		ContainerID: p.containerID,
		ID:          id,
		Pid:         s.cfg.PID,
		ExitStatus:  e.Status,
		ExitedAt:    timestamppb.New(e.At),
	})
	close(p.gone)
}
