package agent

import (
	"context"
	"fmt"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"kata/api/agentpb"
	"kata/api/ttrpc"
	"kata/guest/agent/helper"
)

func TestThePacketFilterOfAnotherMachineIsLeftAlone(t *testing.T) {
	s := &Service{filtering: make(chan struct{}, 1)}
	for _, tt := range []struct {
		data string
		want ttrpc.Code
	}{{"", ttrpc.InvalidArgument}, {"*filter\nCOMMIT\n", ttrpc.FailedPrecondition}} {
		_, err := s.setIPTables(t.Context(), &agentpb.SetIPTablesRequest{Data: []byte(tt.data)})
		if ttrpc.CodeOf(Coded(err)) != tt.want {
			t.Errorf("%q: %v, want %v", tt.data, err, tt.want)
		}
	}
}

func TestPacketFiltersAreReplacedOneAtATime(t *testing.T) {
	var calls [][]string
	run := func(_ context.Context, name string, args []string, input []byte) ([]byte, error) {
		calls = append(calls, append([]string{name, string(input)}, args...))
		return []byte("text"), nil
	}
	s := &Service{cfg: Config{Init: true, RunHelper: run}, filtering: make(chan struct{}, 1)}
	s.filtering <- struct{}{}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := s.setIPTables(ctx, &agentpb.SetIPTablesRequest{Data: []byte("# nothing\n")})
	if ttrpc.CodeOf(Coded(err)) != ttrpc.Canceled {
		t.Errorf("while another is at it: %v", err)
	}
	<-s.filtering
	for _, isIPv6 := range []bool{false, true} {
		if _, err := s.setIPTables(t.Context(), &agentpb.SetIPTablesRequest{Data: []byte("# nothing\n"), IsIpv6: isIPv6}); err != nil {
			t.Error(err)
		}
	}
	if saved, err := s.getIPTables(t.Context(), &agentpb.GetIPTablesRequest{}); err != nil || string(saved.Data) != "text" {
		t.Errorf("saved %v, %v", saved, err)
	}
	want := [][]string{
		{"iptables", "# nothing\n", "restore", "ipv4"}, {"iptables", "# nothing\n", "restore", "ipv6"}, {"iptables", "", "save", "ipv4"},
	}
	if !slices.EqualFunc(calls, want, slices.Equal) {
		t.Errorf("ran %q, want %q", calls, want)
	}
}

func TestErrorsOfHelpers(t *testing.T) {
	for _, tt := range []struct {
		err  error
		want ttrpc.Code
		text string
	}{
		{&helper.MissingError{Path: "/usr/libexec/kata/iptables"}, ttrpc.Unimplemented, "the guest's image has no /usr/libexec/kata/iptables"},
		{&helper.ExitError{Status: 2, Text: "line 3: it is wrong"}, ttrpc.InvalidArgument, "data: line 3: it is wrong"},
		{&helper.ExitError{Status: 1, Text: "the kernel refuses the table nat: cannot allocate memory"}, ttrpc.Internal, "the kernel refuses the table nat: cannot allocate memory"},
		{&helper.ExitError{Status: 137}, ttrpc.Internal, "exit status 137"},
		{fmt.Errorf("iptables: %w", context.DeadlineExceeded), ttrpc.DeadlineExceeded, "iptables: context deadline exceeded"},
		{unix.EPERM, ttrpc.Internal, "operation not permitted"},
	} {
		err := Coded(helperError(tt.err))
		if ttrpc.CodeOf(err) != tt.want || err.Error() != tt.text {
			t.Errorf("%v (%v), want %s (%v)", err, ttrpc.CodeOf(err), tt.text, tt.want)
		}
	}
}
