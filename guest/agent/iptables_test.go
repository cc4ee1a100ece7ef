package agent

import (
	"context"
	"fmt"
	"testing"

	"golang.org/x/sys/unix"

	"kata/api/agentpb"
	"kata/api/ttrpc"
	"kata/guest/network/iptables"
)

func TestThePacketFilterOfAnotherMachineIsLeftAlone(t *testing.T) {
	s := &Service{filtering: make(chan struct{}, 1)}
	for _, tt := range []struct {
		data string
		want ttrpc.Code
	}{{"", ttrpc.InvalidArgument}, {"*filter\nCOMMIT\n", ttrpc.FailedPrecondition}} {
		_, err := s.setIPTables(t.Context(), &agentpb.SetIPTablesRequest{Data: []byte(tt.data)})
		if ttrpc.CodeOf(err) != tt.want {
			t.Errorf("%q: %v, want %v", tt.data, err, tt.want)
		}
	}
}

func TestPacketFiltersAreReplacedOneAtATime(t *testing.T) {
	s := &Service{cfg: Config{Init: true}, filtering: make(chan struct{}, 1)}
	s.filtering <- struct{}{}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := s.setIPTables(ctx, &agentpb.SetIPTablesRequest{Data: []byte("# nothing\n")})
	if ttrpc.CodeOf(Coded(err)) != ttrpc.Canceled {
		t.Errorf("while another is at it: %v", err)
	}
	<-s.filtering
	for range 2 {
		if _, err := s.setIPTables(t.Context(), &agentpb.SetIPTablesRequest{Data: []byte("# nothing\n")}); err != nil {
			t.Error(err)
		}
	}
}

func TestErrorsOfPacketFilters(t *testing.T) {
	for _, tt := range []struct {
		err  error
		want ttrpc.Code
		text string
	}{
		{&iptables.SyntaxError{Line: 3, Reason: "it is wrong"}, ttrpc.InvalidArgument, "data: line 3: it is wrong"},
		{fmt.Errorf("x: %w", &iptables.RefusedError{Table: "nat", Err: unix.EINVAL}), ttrpc.InvalidArgument, "data: x: the kernel refuses the table nat: invalid argument"},
		{&iptables.RefusedError{Table: "nat", Err: iptables.ErrNoTable}, ttrpc.InvalidArgument, "data: the kernel refuses the table nat: the kernel has no such table"},
		{&iptables.RefusedError{Table: "nat", Err: unix.ENOMEM}, ttrpc.Internal, "the kernel refuses the table nat: cannot allocate memory"},
		{unix.EPERM, ttrpc.Internal, "operation not permitted"},
	} {
		err := Coded(iptablesError(tt.err))
		if ttrpc.CodeOf(err) != tt.want || err.Error() != tt.text {
			t.Errorf("%v (%v), want %s (%v)", err, ttrpc.CodeOf(err), tt.text, tt.want)
		}
	}
}
