package shim

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"testing"
	"testing/synctest"
	"time"

	api "github.com/containerd/containerd/api/runtime/task/v3"
	"google.golang.org/protobuf/proto"

	"kata/host/shim/task"
)

// conns is a listener to which a test hands connections.
type conns chan net.Conn

func (c conns) Accept() (net.Conn, error) { return <-c, nil }
func (c conns) Close() error              { return nil }
func (c conns) Addr() net.Addr            { return nil }

func TestAServerWithoutTaskAndClientIsIdleAfterAWhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := make(conns, 1)
		hold := make(chan struct{})
		s := &server{listener: newCountingListener(l), requests: newRequests(), tasks: task.New(task.Config{
			Boot: func(ctx context.Context, _ task.BootRequest) (task.Sandbox, error) {
				<-hold
				return nil, errors.New("no sandbox")
			},
			Publish: func(string, proto.Message) {}, Log: slog.New(slog.DiscardHandler),
		})}
		idle, stop := s.watchIdle()
		defer stop()
		isIdle := func() bool {
			synctest.Wait()
			select {
			case <-idle:
				return true
			default:
				return false
			}
		}
		time.Sleep(idleTimeout / 2)
		near, far := net.Pipe()
		l <- near
		client, err := s.listener.Accept()
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(forgottenTimeout / 4)
		if isIdle() {
			t.Fatal("idle with a client")
		}
		bundle := t.TempDir()
		created := make(chan struct{})
		go func() {
			defer close(created)
			_, _ = s.tasks.Create(context.Background(), &api.CreateTaskRequest{ID: "c1", Bundle: writeSpec(t, bundle)})
		}()
		synctest.Wait()
		_ = client.Close()
		_ = client.Close() // counts once
		time.Sleep(2 * idleTimeout)
		if isIdle() {
			t.Fatal("idle while a task is being created")
		}
		close(hold)
		<-created
		time.Sleep(idleTimeout - time.Second)
		if isIdle() {
			t.Fatal("idle too early")
		}
		time.Sleep(2 * time.Second)
		if !isIdle() {
			t.Fatal("not idle")
		}
		_ = far.Close()
	})
}

func TestAServerThatNobodyToldToEndEndsWhoeverIsConnected(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := make(conns, 1)
		s := &server{listener: newCountingListener(l), requests: newRequests(), tasks: task.New(task.Config{
			Publish: func(string, proto.Message) {}, Log: slog.New(slog.DiscardHandler),
		})}
		idle, stop := s.watchIdle()
		defer stop()
		near, far := net.Pipe()
		defer far.Close()
		l <- near
		client, err := s.listener.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
		answer := make(chan struct{})
		go func() {
			_, _ = s.requests.intercept(t.Context(), nil, nil, func(context.Context, func(any) error) (any, error) {
				<-answer
				return nil, nil
			})
		}()
		time.Sleep(time.Hour)
		select {
		case <-idle:
			t.Fatal("it ends while a request is under way")
		default:
		}
		close(answer)
		begun := time.Now()
		<-idle
		if took := time.Since(begun); took > time.Minute || took < idleTimeout {
			t.Errorf("it ended after %s, want within a minute", took)
		}
	})
}
