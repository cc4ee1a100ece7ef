package agent

import (
	"context"
	"errors"
	"io"
	"math"

	"golang.org/x/sys/unix"

	"kata/api/agentpb"
	"kata/guest/container/ocispec"
	"kata/guest/container/stream"
	"kata/guest/fault"
	"kata/guest/sandbox"
	"kata/lib/fmt"
)

const (
	// maxSignal is the last signal of Linux (SIGRTMAX).
	maxSignal = 64
	// maxRead bounds what one ReadStdout answers.
	maxRead = 1 << 20
)

// process returns a process of a container, the first one if execID is empty.
func (s *Service) process(containerID, execID string) (*sandbox.Process, error) {
	c, err := s.container(containerID)
	if err != nil {
		return nil, err
	}
	if execID != "" {
		if err := checkID("exec_id", execID); err != nil {
			return nil, err
		}
	}
	return c.Process(execID)
}

func (s *Service) execProcess(ctx context.Context, req *agentpb.ExecProcessRequest) (*agentpb.Empty, error) {
	c, err := s.container(req.ContainerId)
	if err != nil {
		return nil, err
	}
	if err := checkID("exec_id", req.ExecId); err != nil {
		return nil, err
	}
	if req.Process == nil {
		return nil, invalid("process", "", "is missing")
	}
	names, err := userNames(req.StringUser)
	if err != nil {
		return nil, err
	}
	ports := stream.Ports{Stdin: req.StdinPort, Stdout: req.StdoutPort, Stderr: req.StderrPort}
	if err := checkPorts(ports, req.Process.Terminal); err != nil {
		return nil, err
	}
	p, err := ocispec.ParseProcess(req.Process, names)
	if err != nil {
		return nil, err
	}
	return empty(c.Exec(ctx, sandbox.ExecOptions{ID: req.ExecId, Process: &p, Ports: ports}))
}

func (s *Service) signalProcess(ctx context.Context, req *agentpb.SignalProcessRequest) (*agentpb.Empty, error) {
	// Signal 0 asks whether the process is there, as in kill(2).
	if req.Signal > maxSignal {
		return nil, invalid("signal", req.Signal, "is not a signal, 0 to 64")
	}
	if req.All {
		c, err := s.container(req.ContainerId)
		if err != nil {
			return nil, err
		}
		return empty(c.With(ctx, func(_ context.Context, r sandbox.Instance) error { return r.SignalAll(unix.Signal(req.Signal)) }))
	}
	p, err := s.process(req.ContainerId, req.ExecId)
	if err != nil {
		return nil, err
	}
	return empty(p.Signal(ctx, unix.Signal(req.Signal)))
}

func (s *Service) waitProcess(ctx context.Context, req *agentpb.WaitProcessRequest) (*agentpb.WaitProcessResponse, error) {
	p, err := s.process(req.ContainerId, req.ExecId)
	if err != nil {
		return nil, err
	}
	exit, err := p.Wait(ctx)
	if err != nil {
		return nil, err
	}
	return &agentpb.WaitProcessResponse{
		Status: int32(exit.Status), StdoutBytes: exit.Stdout, StderrBytes: exit.Stderr,
		ExitedAt: exit.Time.UnixNano(), OomEvents: exit.OOMEvents,
	}, nil
}

func (s *Service) ttyWinResize(ctx context.Context, req *agentpb.TtyWinResizeRequest) (*agentpb.Empty, error) {
	if req.Row > math.MaxUint16 {
		return nil, invalid("row", req.Row, "is more than 65535")
	}
	if req.Column > math.MaxUint16 {
		return nil, invalid("column", req.Column, "is more than 65535")
	}
	p, err := s.process(req.ContainerId, req.ExecId)
	if err != nil {
		return nil, err
	}
	return empty(p.Resize(ctx, req.Row, req.Column))
}

func (s *Service) writeStdin(ctx context.Context, req *agentpb.WriteStreamRequest) (*agentpb.WriteStreamResponse, error) {
	p, err := s.process(req.ContainerId, req.ExecId)
	if err != nil {
		return nil, err
	}
	n, err := p.Streams().Write(ctx, req.Data)
	// Part of it has been taken: the caller has to know how much.
	if err != nil && n == 0 {
		return nil, streamError(p, err)
	}
	return &agentpb.WriteStreamResponse{Len: uint32(n)}, nil
}

func (s *Service) closeStdin(_ context.Context, req *agentpb.CloseStdinRequest) (*agentpb.Empty, error) {
	p, err := s.process(req.ContainerId, req.ExecId)
	if err != nil {
		return nil, err
	}
	p.Streams().CloseStdin()
	return &agentpb.Empty{}, nil
}

func (s *Service) readStdout(ctx context.Context, req *agentpb.ReadStreamRequest) (*agentpb.ReadStreamResponse, error) {
	return s.read(ctx, req, (*stream.Set).ReadStdout)
}

func (s *Service) readStderr(ctx context.Context, req *agentpb.ReadStreamRequest) (*agentpb.ReadStreamResponse, error) {
	return s.read(ctx, req, (*stream.Set).ReadStderr)
}

func (s *Service) read(ctx context.Context, req *agentpb.ReadStreamRequest,
	from func(*stream.Set, context.Context, int) ([]byte, error),
) (*agentpb.ReadStreamResponse, error) {
	if req.Len == 0 {
		return nil, invalid("len", req.Len, "reads nothing")
	}
	p, err := s.process(req.ContainerId, req.ExecId)
	if err != nil {
		return nil, err
	}
	data, err := from(p.Streams(), ctx, int(min(req.Len, maxRead)))
	if err != nil {
		return nil, streamError(p, err)
	}
	return &agentpb.ReadStreamResponse{Data: data}, nil
}

// streamError says whose stream it was. The end of output becomes OutOfRange, gRPC's
// code for reading past the end; upstream answers Internal with the same text, so
// clients that look at the text understand both.
func streamError(p *sandbox.Process, err error) error {
	switch {
	case errors.Is(err, io.EOF):
		return fault.New(fault.End, "read  meet eof")
	case errors.Is(err, stream.ErrConnected), errors.Is(err, stream.ErrNoStream):
		return fmt.Errorf("%s: %w", p.String(), err)
	}
	return err
}
