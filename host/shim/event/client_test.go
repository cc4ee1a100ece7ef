package event

import (
	"context"
	"net"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"github.com/containerd/containerd/api/events"
	api "github.com/containerd/containerd/api/services/ttrpc/events/v1"
	"github.com/containerd/ttrpc"
	"google.golang.org/protobuf/types/known/emptypb"
)

// service is containerd's event service, on a real socket.
type service struct {
	mu    sync.Mutex
	taken []string

	arrived chan struct{}
}

func (s *service) Forward(ctx context.Context, r *api.ForwardRequest) (*emptypb.Empty, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	namespace, _ := ttrpc.GetMetadataValue(ctx, namespaceHeader)
	e := r.Envelope
	s.taken = append(s.taken, namespace+" "+e.Namespace+" "+e.Topic+" "+e.Event.TypeUrl)
	s.arrived <- struct{}{}
	return &emptypb.Empty{}, nil
}

func (s *service) serve(t *testing.T, path string) (stop func()) {
	t.Helper()
	server, err := ttrpc.NewServer()
	if err != nil {
		t.Fatal(err)
	}
	api.RegisterTTRPCEventsService(server, s)
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { defer close(done); _ = server.Serve(context.Background(), l) }()
	return func() { _ = server.Close(); <-done }
}

func TestClientFollowsARestartOfContainerd(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	s := &service{arrived: make(chan struct{}, 8)}
	stop := s.serve(t, path)
	p := New("ns", NewClient("unix://"+path), quiet())
	p.Publish("/tasks/start", &events.TaskStart{ContainerID: "1"})
	<-s.arrived
	stop()
	p.Publish("/tasks/exit", &events.TaskExit{ContainerID: "1"})
	stop = s.serve(t, path)
	defer stop()
	if err := p.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	want := []string{"ns ns /tasks/start containerd.events.TaskStart", "ns ns /tasks/exit containerd.events.TaskExit"}
	// One whose answer was lost with the connection is sent again.
	if taken := slices.Compact(s.taken); !slices.Equal(taken, want) {
		t.Errorf("taken %q, want %q", taken, want)
	}
}
