package agent

import (
	"context"
	"errors"

	"kata/api"
	"kata/api/agentpb"
	"kata/guest/agent/helper"
	"kata/guest/fault"
)

// badText is the exit status of cmd/kata-guest-iptables for a text that is wrong.
const badText = 2

// RunHelper runs a program of the guest's image, as helper.Config.Run does.
type RunHelper func(ctx context.Context, name string, args []string, input []byte) ([]byte, error)

// registerIPTables registers the calls that read and write the pod's packet filter.
func (s *Service) registerIPTables(agent agentpb.AgentServiceRegistrar) {
	agent.GetIPTables(s.getIPTables)
	agent.SetIPTables(s.setIPTables)
}

func (s *Service) getIPTables(ctx context.Context, req *agentpb.GetIPTablesRequest) (*agentpb.GetIPTablesResponse, error) {
	text, err := s.iptables(ctx, "save", req.IsIpv6, nil)
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
	if _, err := s.iptables(ctx, "restore", req.IsIpv6, req.Data); err != nil {
		return nil, err
	}
	return &agentpb.SetIPTablesResponse{}, nil
}

// iptables runs the helper, one at a time: a text with several tables is not to
// mix with another, and a helper is memory.
func (s *Service) iptables(ctx context.Context, verb string, isIPv6 bool, input []byte) ([]byte, error) {
	select {
	case s.filtering <- struct{}{}:
		defer func() { <-s.filtering }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	family := "ipv4"
	if isIPv6 {
		family = "ipv6"
	}
	text, err := s.cfg.RunHelper(ctx, api.HelperIPTables, []string{verb, family}, input)
	return text, helperError(err)
}

// helperError says which errors of a helper are about what it was given.
func helperError(err error) error {
	if exit := (*helper.ExitError)(nil); errors.As(err, &exit) && exit.Status == badText {
		return &fault.Error{Kind: fault.Invalid, Field: "data", Cause: err}
	}
	return err
}
