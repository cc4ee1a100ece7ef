package agent

import (
	"context"
	"errors"

	"golang.org/x/sys/unix"

	"kata/api/agentpb"
	"kata/api/ttrpc"
	"kata/guest/network/iptables"
)

// registerIPTables registers the calls that read and write the pod's packet filter.
func (s *Service) registerIPTables(agent agentpb.AgentServiceRegistrar) {
	agent.GetIPTables(s.getIPTables)
	agent.SetIPTables(s.setIPTables)
}

func family(isIPv6 bool) iptables.Family {
	if isIPv6 {
		return iptables.IPv6
	}
	return iptables.IPv4
}

func (s *Service) getIPTables(_ context.Context, req *agentpb.GetIPTablesRequest) (*agentpb.GetIPTablesResponse, error) {
	text, err := iptables.Save(family(req.IsIpv6))
	if err != nil {
		return nil, err
	}
	return &agentpb.GetIPTablesResponse{Data: text}, nil
}

// setIPTables replaces the tables that the text names. The answer's data, which
// is what iptables-restore would have printed, is empty: it prints nothing when
// it succeeds, and when it does not the error says why.
func (s *Service) setIPTables(ctx context.Context, req *agentpb.SetIPTablesRequest) (*agentpb.SetIPTablesResponse, error) {
	if len(req.Data) == 0 {
		return nil, invalid("data", "", "is missing")
	}
	if err := s.needInit("set the packet filter"); err != nil {
		return nil, err
	}
	// One at a time: a text with several tables is not to mix with another.
	select {
	case s.filtering <- struct{}{}:
		defer func() { <-s.filtering }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if err := iptables.Restore(family(req.IsIpv6), req.Data); err != nil {
		return nil, iptablesError(err)
	}
	return &agentpb.SetIPTablesResponse{}, nil
}

// iptablesError gives an error of the text the code for one.
func iptablesError(err error) error {
	if syntax := (*iptables.SyntaxError)(nil); errors.As(err, &syntax) {
		return ttrpc.Errorf(ttrpc.InvalidArgument, "data: %w", err)
	}
	refused := (*iptables.RefusedError)(nil)
	if !errors.As(err, &refused) {
		return err
	}
	for _, theirs := range [...]error{unix.EINVAL, unix.ENOENT, unix.ELOOP, unix.EOPNOTSUPP, unix.EPROTONOSUPPORT, iptables.ErrNoTable} {
		if errors.Is(err, theirs) {
			return ttrpc.Errorf(ttrpc.InvalidArgument, "data: %w", err)
		}
	}
	return err
}
