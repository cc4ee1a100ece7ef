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
	topicOOM         = "/tasks/oom"
)

// exited records and publishes the end of a process, once.
func (s *Service) exited(p *process, e Exit) {
	if !p.end(e) {
		return
	}
	s.publishOOM(p)
	id := p.execID
	if id == "" {
		id = p.containerID
	}
	s.cfg.Publish(topicExit, &events.TaskExit{
		ContainerID: p.containerID,
		ID:          id,
		Pid:         p.hostPID(),
		ExitStatus:  e.Status,
		ExitedAt:    timestamppb.New(e.At),
	})
	close(p.gone)
}

// maxUntoldOOM is how many kills before the start of a container are told after it:
// the guest tells of them, and may tell of any number.
const maxUntoldOOM = 8

// oomKilled tells that the kernel killed a process of a container for want of
// memory. It is not told before the container's start, which may be under way.
func (s *Service) oomKilled(containerID string) {
	s.mu.Lock()
	t, ok := s.tasks[containerID]
	s.mu.Unlock()
	if !ok {
		s.cfg.Log.Debug("out of memory in a container that is gone", "container", containerID)
		return
	}
	t.first.mu.Lock()
	t.first.oomKills = min(t.first.oomKills+1, maxUntoldOOM)
	told := t.first.startTold
	t.first.mu.Unlock()
	if told {
		s.publishOOM(t.first)
	}
}

// publishOOM publishes what has not been, for a container's first process.
func (s *Service) publishOOM(p *process) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for ; p.oomKills > 0; p.oomKills-- {
		s.cfg.Publish(topicOOM, &events.TaskOOM{ContainerID: p.containerID})
	}
}

// started tells that a container has been started, and what has happened to it
// since.
func (s *Service) started(p *process) {
	s.cfg.Publish(topicStart, &events.TaskStart{ContainerID: p.containerID, Pid: p.hostPID()})
	p.mu.Lock()
	p.startTold = true
	p.mu.Unlock()
	s.publishOOM(p)
}
