package agent

import (
	"context"
	"strings"
	"time"

	"kata/api/agentpb"
	"kata/guest/container/ocispec"
	"kata/guest/container/plan"
	"kata/guest/container/stream"
	"kata/guest/sandbox"
	"kata/lib/fmt"
)

// maxID is the longest name of a file.
const maxID = 255

// checkID finds out whether id is a name: upstream's rule, that makes it a safe
// name of a file too.
func checkID(field, id string) error {
	if id == "" {
		return invalid(field, id, "is missing")
	}
	if len(id) > maxID {
		return invalid(field, id[:maxID]+"…", "is too long")
	}
	for i := range len(id) {
		switch c := id[i]; {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9':
		case i > 0 && (c == '_' || c == '.' || c == '-'):
		default:
			return invalid(field, id, "is not a name of letters, digits, '_', '.' and '-' that starts with a letter or digit")
		}
	}
	return nil
}

// container returns the container called id.
func (s *Service) container(id string) (*sandbox.Container, error) {
	if err := checkID("container_id", id); err != nil {
		return nil, err
	}
	return s.sandbox.Container(id)
}

func (s *Service) createContainer(ctx context.Context, req *agentpb.CreateContainerRequest) (*agentpb.Empty, error) {
	if err := checkID("container_id", req.ContainerId); err != nil {
		return nil, err
	}
	if req.ExecId != "" {
		if err := checkID("exec_id", req.ExecId); err != nil {
			return nil, err
		}
	}
	ports := stream.Ports{Stdin: req.StdinPort, Stdout: req.StdoutPort, Stderr: req.StderrPort}
	switch {
	case req.OCI == nil:
		return nil, invalid("OCI", "", "is missing")
	case req.OCI.Process == nil:
		return nil, invalid("OCI.Process", "", "is missing")
	}
	names, err := userNames(req.StringUser)
	if err != nil {
		return nil, err
	}
	if err := checkPorts(ports, req.OCI.Process.Terminal); err != nil {
		return nil, err
	}
	// Before anything is made for it; devices and hooks of the guest only add
	// what is right.
	spec, err := ocispec.Parse(req.ContainerId, req.OCI, ocispec.Options{SharesPIDs: req.SandboxPidns, Names: names})
	if err != nil {
		return nil, err
	}
	if err := sandbox.CheckSharedMounts(req.ContainerId, spec, req.SharedMounts); err != nil {
		return nil, err
	}
	err = s.sandbox.CreateContainer(ctx, sandbox.ContainerOptions{
		ExecID: req.ExecId, Spec: spec, Storages: req.Storages, Devices: req.Devices,
		Ports: ports, SandboxPidns: req.SandboxPidns, SharedMounts: req.SharedMounts,
	})
	if err != nil {
		return nil, err
	}
	s.cfg.Log.Debug("container created", "container", req.ContainerId)
	return &agentpb.Empty{}, nil
}

// userNames is a user whose names are looked up in the container.
func userNames(user *agentpb.StringUser) (names plan.Names, err error) {
	names = plan.Names{User: user.GetUid(), Group: user.GetGid(), Groups: user.GetAdditionalGids()}
	check := func(field, name string) {
		if err == nil && (len(name) > maxID || strings.ContainsAny(name, ":\n\x00")) {
			err = invalid(field, name, "is not the name or number of a user or group")
		}
	}
	check("string_user.uid", names.User)
	check("string_user.gid", names.Group)
	for _, name := range names.Groups {
		check("string_user.additionalGids", name)
		if err == nil && name == "" {
			err = invalid("string_user.additionalGids", name, "is empty")
		}
	}
	return names, err
}

// checkPorts finds out whether ports can be a process's streams.
func checkPorts(ports stream.Ports, terminal bool) error {
	if terminal && ports.Stderr != 0 {
		return invalid("stderr_port", ports.Stderr, "is not possible: a terminal has no standard error")
	}
	for _, p := range [...]struct {
		field string
		port  uint32
		other uint32
	}{{"stdout_port", ports.Stdout, ports.Stdin}, {"stderr_port", ports.Stderr, ports.Stdin}, {"stderr_port", ports.Stderr, ports.Stdout}} {
		if p.port != 0 && p.port == p.other {
			return invalid(p.field, p.port, "is another stream's port too")
		}
	}
	return nil
}

func (s *Service) startContainer(ctx context.Context, req *agentpb.StartContainerRequest) (*agentpb.Empty, error) {
	c, err := s.container(req.ContainerId)
	if err != nil {
		return nil, err
	}
	return empty(c.Start(ctx))
}

func (s *Service) removeContainer(ctx context.Context, req *agentpb.RemoveContainerRequest) (*agentpb.Empty, error) {
	c, err := s.container(req.ContainerId)
	if err != nil {
		return nil, err
	}
	if req.Timeout != 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Duration(req.Timeout)*time.Second)
		defer cancel()
	}
	return empty(c.Remove(ctx))
}

func (s *Service) pauseContainer(ctx context.Context, req *agentpb.PauseContainerRequest) (*agentpb.Empty, error) {
	c, err := s.container(req.ContainerId)
	if err != nil {
		return nil, err
	}
	return empty(c.With(ctx, func(ctx context.Context, r sandbox.Instance) error { return r.Pause(ctx) }))
}

func (s *Service) resumeContainer(ctx context.Context, req *agentpb.ResumeContainerRequest) (*agentpb.Empty, error) {
	c, err := s.container(req.ContainerId)
	if err != nil {
		return nil, err
	}
	return empty(c.With(ctx, func(ctx context.Context, r sandbox.Instance) error { return r.Resume(ctx) }))
}

func (s *Service) updateContainer(ctx context.Context, req *agentpb.UpdateContainerRequest) (*agentpb.Empty, error) {
	c, err := s.container(req.ContainerId)
	if err != nil {
		return nil, err
	}
	if req.Resources == nil {
		return nil, invalid("resources", "", "is missing")
	}
	return empty(c.With(ctx, func(_ context.Context, r sandbox.Instance) error { return r.Update(req.Resources) }))
}

func (s *Service) statsContainer(ctx context.Context, req *agentpb.StatsContainerRequest) (*agentpb.StatsContainerResponse, error) {
	c, err := s.container(req.ContainerId)
	if err != nil {
		return nil, err
	}
	var stats *agentpb.CgroupStats
	err = c.With(ctx, func(_ context.Context, r sandbox.Instance) (err error) {
		stats, err = r.Stats()
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("statistics of container %s: %w", req.ContainerId, err)
	}
	network, err := s.networkStats()
	if err != nil {
		return nil, fmt.Errorf("statistics of the network: %w", err)
	}
	return &agentpb.StatsContainerResponse{CgroupStats: stats, NetworkStats: network}, nil
}

// empty is the answer of a call that has none.
func empty(err error) (*agentpb.Empty, error) {
	if err != nil {
		return nil, err
	}
	return &agentpb.Empty{}, nil
}
