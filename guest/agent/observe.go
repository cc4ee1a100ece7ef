package agent

import (
	"context"
	"errors"
	"time"

	"kata/api/agentpb"
	"kata/api/ttrpc"
	"kata/guest/container/oom"
	"kata/guest/fault"
	"kata/guest/observe/diagnostic"
	"kata/guest/observe/metrics"
	"kata/guest/sandbox"
	"kata/lib/fmt"
)

// registerObservation registers the calls that tell what happens in the guest.
// GetOOMEvent has to know whether its answer was sent.
func (s *Service) registerObservation(server *ttrpc.Server, agent agentpb.AgentServiceRegistrar) {
	server.Handle("grpc.AgentService", "GetOOMEvent", func(payload []byte) (ttrpc.Call, error) {
		req := new(agentpb.GetOOMEventRequest)
		if err := req.UnmarshalVT(payload); err != nil {
			return nil, err
		}
		return func(ctx context.Context) (ttrpc.Answer, error) {
			answer, err := s.getOOMEvent(ctx, req)
			if err != nil {
				return nil, err
			}
			return answer, nil
		}, nil
	})
	collector := new(metrics.Collector)
	agent.GetMetrics(func(context.Context, *agentpb.GetMetricsRequest) (*agentpb.Metrics, error) {
		return &agentpb.Metrics{Metrics: string(collector.Collect())}, nil
	})
	agent.GetDiagnosticData(s.getDiagnosticData)
}

func (s *Service) getDiagnosticData(ctx context.Context, req *agentpb.GetDiagnosticDataRequest) (*agentpb.GetDiagnosticDataResponse, error) {
	var data string
	var err error
	switch req.LogType {
	case "termination-log":
		var c *sandbox.Container
		if c, err = s.container(req.ContainerId); err == nil {
			err = c.With(ctx, func(_ context.Context, r sandbox.Instance) (err error) {
				data, err = diagnostic.TerminationMessage(r.Spec())
				return err
			})
		}
	case "kernel-log":
		if req.ContainerId != "" {
			return nil, invalid("container_id", req.ContainerId, "has no kernel log of its own")
		}
		data, err = diagnostic.KernelLog()
	default:
		return nil, invalid("log_type", req.LogType, "is neither termination-log nor kernel-log")
	}
	if err != nil {
		return nil, err
	}
	return &agentpb.GetDiagnosticDataResponse{Data: data}, nil
}

// oomAnswer is an event on its way: it waits again if it does not arrive.
type oomAnswer struct {
	agentpb.OOMEvent
	event *oom.Event
}

// Sent implements ttrpc.Tracked.
func (a *oomAnswer) Sent(err error) { a.event.Done(err) }

// giveUpBefore is how long before its deadline a call stops waiting for an event:
// the client's clock for it started earlier, and an event that comes when the
// client has just given up would be nobody's.
const giveUpBefore = 100 * time.Millisecond

func (s *Service) getOOMEvent(ctx context.Context, _ *agentpb.GetOOMEventRequest) (*oomAnswer, error) {
	if s.cfg.OOM == nil {
		return nil, fault.New(fault.State, "OOM kills are not watched")
	}
	if deadline, ok := ctx.Deadline(); ok {
		early := deadline.Add(-min(giveUpBefore, time.Until(deadline)/2))
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, early)
		defer cancel()
	}
	event, err := s.cfg.OOM.Next(ctx)
	if errors.Is(err, oom.ErrClosed) {
		return nil, fmt.Errorf("%w: the sandbox has been destroyed", err)
	}
	if err != nil {
		return nil, err
	}
	return &oomAnswer{OOMEvent: agentpb.OOMEvent{ContainerId: event.ContainerID()}, event: event}, nil
}
