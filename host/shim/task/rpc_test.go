package task_test

import (
	"context"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"testing"

	v2 "github.com/containerd/containerd/api/runtime/task/v2"
	v3 "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/ttrpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/emptypb"

	agent "kata/api/ttrpc"

	"kata/host/shim/task"
)

// dial serves the world's service on a socket and returns a client of it.
func (w *world) dial() *ttrpc.Client {
	w.t.Helper()
	server, err := ttrpc.NewServer()
	if err != nil {
		w.t.Fatal(err)
	}
	w.Register(server)
	path := filepath.Join(w.t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		w.t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { defer close(done); _ = server.Serve(context.Background(), l) }()
	conn, err := net.Dial("unix", path)
	if err != nil {
		w.t.Fatal(err)
	}
	client := ttrpc.NewClient(conn)
	w.t.Cleanup(func() { _ = client.Close(); _ = server.Close(); <-done })
	return client
}

// call is one request of a script, with the fields that its answer must have.
type call struct {
	method string
	v2, v3 proto.Message
	want   string
}

// TestEveryMethodOverTheWire drives the same life through both versions of the
// service, with containerd's own client.
func TestEveryMethodOverTheWire(t *testing.T) {
	dir := bundle(t)
	spec := &anypb.Any{Value: []byte(`{"args":["true"],"cwd":"/"}`)}
	limits := &anypb.Any{Value: []byte(`{"pids":{"limit":7}}`)}
	script := []call{
		{"Create", &v2.CreateTaskRequest{ID: "c1", Bundle: dir, Stdout: "/no/fifo"}, &v3.CreateTaskRequest{ID: "c1", Bundle: dir, Stdout: "/no/fifo"}, "pid:5001"},
		{"State", &v2.StateRequest{ID: "c1"}, &v3.StateRequest{ID: "c1"}, `id:"c1" bundle:"` + dir + `" pid:5001 status:CREATED stdout:"/no/fifo"`},
		{"Start", &v2.StartRequest{ID: "c1"}, &v3.StartRequest{ID: "c1"}, "pid:5001"},
		{"Exec", &v2.ExecProcessRequest{ID: "c1", ExecID: "e1", Terminal: true, Spec: spec}, &v3.ExecProcessRequest{ID: "c1", ExecID: "e1", Terminal: true, Spec: spec}, ""},
		{"Start", &v2.StartRequest{ID: "c1", ExecID: "e1"}, &v3.StartRequest{ID: "c1", ExecID: "e1"}, "pid:6001"},
		{"ResizePty", &v2.ResizePtyRequest{ID: "c1", ExecID: "e1", Width: 1, Height: 2}, &v3.ResizePtyRequest{ID: "c1", ExecID: "e1", Width: 1, Height: 2}, ""},
		{"CloseIO", &v2.CloseIORequest{ID: "c1", Stdin: true}, &v3.CloseIORequest{ID: "c1", Stdin: true}, ""},
		{"Pids", &v2.PidsRequest{ID: "c1"}, &v3.PidsRequest{ID: "c1"}, "processes:{pid:5001}"},
		{"Connect", &v2.ConnectRequest{ID: "c1"}, &v3.ConnectRequest{ID: "c1"}, "shim_pid:4711 task_pid:5001"},
		{"Pause", &v2.PauseRequest{ID: "c1"}, &v3.PauseRequest{ID: "c1"}, ""},
		{"State", &v2.StateRequest{ID: "c1", ExecID: "e1"}, &v3.StateRequest{ID: "c1", ExecID: "e1"}, `id:"e1"`},
		{"Resume", &v2.ResumeRequest{ID: "c1"}, &v3.ResumeRequest{ID: "c1"}, ""},
		{"Update", &v2.UpdateTaskRequest{ID: "c1", Resources: limits}, &v3.UpdateTaskRequest{ID: "c1", Resources: limits}, ""},
		{"Stats", &v2.StatsRequest{ID: "c1"}, &v3.StatsRequest{ID: "c1"}, "io.containerd.cgroups.v1.Metrics"},
		{"Checkpoint", &v2.CheckpointTaskRequest{ID: "c1"}, &v3.CheckpointTaskRequest{ID: "c1"}, "Unimplemented"},
		{"Delete", &v2.DeleteRequest{ID: "c1"}, &v3.DeleteRequest{ID: "c1"}, "FailedPrecondition"},
		{"Kill", &v2.KillRequest{ID: "c1", ExecID: "e1", Signal: 9}, &v3.KillRequest{ID: "c1", ExecID: "e1", Signal: 9}, ""},
		{"Wait", &v2.WaitRequest{ID: "c1", ExecID: "e1"}, &v3.WaitRequest{ID: "c1", ExecID: "e1"}, "exit_status:137 exited_at:{seconds:1000000}"},
		{"Delete", &v2.DeleteRequest{ID: "c1", ExecID: "e1"}, &v3.DeleteRequest{ID: "c1", ExecID: "e1"}, "pid:6001 exit_status:137"},
		{"Kill", &v2.KillRequest{ID: "c1", Signal: 9, All: true}, &v3.KillRequest{ID: "c1", Signal: 9, All: true}, ""},
		{"Wait", &v2.WaitRequest{ID: "c1"}, &v3.WaitRequest{ID: "c1"}, "exit_status:137"},
		{"State", &v2.StateRequest{ID: "c1"}, &v3.StateRequest{ID: "c1"}, "status:STOPPED"},
		{"Delete", &v2.DeleteRequest{ID: "c1"}, &v3.DeleteRequest{ID: "c1"}, "exit_status:137"},
		{"State", &v2.StateRequest{ID: "c1"}, &v3.StateRequest{ID: "c1"}, "NotFound"},
		{"Shutdown", &v2.ShutdownRequest{ID: "c1"}, &v3.ShutdownRequest{ID: "c1"}, ""},
	}
	for _, version := range []string{"v2", "v3"} {
		t.Run(version, func(t *testing.T) {
			w := newWorld(t)
			client := w.dial()
			for i, c := range script {
				request := c.v2
				if version == "v3" {
					request = c.v3
				}
				got := invoke(t.Context(), client, version, c.method, request)
				if !strings.Contains(got, strings.ReplaceAll(c.want, " ", "")) || c.want == "" && got != "" {
					t.Fatalf("%d: %s answers %q, want %q", i, c.method, got, c.want)
				}
			}
			<-w.Done()
		})
	}
}

// invoke calls the method and returns the answer as text without blanks, which
// prototext puts where it likes, or the error's code.
func invoke(ctx context.Context, client *ttrpc.Client, version, method string, request proto.Message) string {
	response := responseTo(version, method)
	if err := client.Call(ctx, "containerd.task."+version+".Task", method, request, response); err != nil {
		return status.Code(err).String()
	}
	return strings.ReplaceAll(fmt.Sprint(response), " ", "")
}

func responseTo(version, method string) proto.Message {
	responses := map[string][2]proto.Message{
		"Create":  {new(v2.CreateTaskResponse), new(v3.CreateTaskResponse)},
		"State":   {new(v2.StateResponse), new(v3.StateResponse)},
		"Start":   {new(v2.StartResponse), new(v3.StartResponse)},
		"Pids":    {new(v2.PidsResponse), new(v3.PidsResponse)},
		"Connect": {new(v2.ConnectResponse), new(v3.ConnectResponse)},
		"Stats":   {new(v2.StatsResponse), new(v3.StatsResponse)},
		"Wait":    {new(v2.WaitResponse), new(v3.WaitResponse)},
		"Delete":  {new(v2.DeleteResponse), new(v3.DeleteResponse)},
	}
	r, ok := responses[method]
	switch {
	case !ok:
		return new(emptypb.Empty)
	case version == "v2":
		return r[0]
	default:
		return r[1]
	}
}

func TestErrorsAreOneLineWithTheRightCode(t *testing.T) {
	for name, c := range map[string]struct {
		err  error
		code codes.Code
		text string
	}{
		"a missing command is not a missing task": {fmt.Errorf("start: %w", agent.Errorf(agent.NotFound, "exec: %q not found", "x")), codes.Unknown, `start: exec: "x" not found`},
		"an agent that cannot do it":              {agent.Errorf(agent.Unimplemented, "no such call"), codes.Unimplemented, "no such call"},
		"several lines":                           {fmt.Errorf("boot:\n  line one\r\n\nline two\n"), codes.Unknown, "boot:; line one; line two"},
		"a deadline":                              {fmt.Errorf("boot: %w", context.DeadlineExceeded), codes.DeadlineExceeded, "boot: context deadline exceeded"},
		"a client that went away":                 {context.Canceled, codes.Canceled, "context canceled"},
	} {
		s, _ := status.FromError(task.ToStatus(c.err))
		if s.Code() != c.code || s.Message() != c.text {
			t.Errorf("%s: %s %q, want %s %q", name, s.Code(), s.Message(), c.code, c.text)
		}
	}
	if task.ToStatus(nil) != nil {
		t.Error("no error became one")
	}
}
