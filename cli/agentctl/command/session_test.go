package command

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"kata/api/agentpb"
	"kata/api/healthpb"
	"kata/api/ttrpc"
	"kata/cli/agentctl/message"
)

// agent is a fake agent that writes down what it is asked.
type agent struct {
	*testing.T
	mu       sync.Mutex
	asked    []string // "Call {request}"; guarded by mu: a call given up may still run
	out, err strings.Builder
	session  *Session
	parser   *Parser
}

// handle answers a call with a fixed answer.
func handle[Req, Resp any, P interface {
	*Req
	ttrpc.Message
}](a *agent, name string, answer *Resp, err error) func(context.Context, P) (*Resp, error) {
	return func(_ context.Context, req P) (*Resp, error) {
		a.mu.Lock()
		defer a.mu.Unlock()
		a.asked = append(a.asked, name+" "+asJSON(a.T, req))
		return answer, err
	}
}

// asJSON shows a request as it came in.
func asJSON(t *testing.T, req ttrpc.Message) string {
	t.Helper()
	typ, err := message.New().Type("grpc." + reflect.TypeOf(req).Elem().Name())
	if err != nil {
		t.Error(err)
		return ""
	}
	m, data := typ.New(), make([]byte, req.SizeVT())
	if _, err := req.MarshalToSizedBufferVT(data); err != nil {
		t.Error(err)
	}
	if err := m.UnmarshalVT(data); err != nil {
		t.Error(err)
	}
	text, err := m.JSON()
	if err != nil {
		t.Error(err)
	}
	return string(text)
}

// newAgent starts a fake agent and a session on it, that configure changes.
func newAgent(t *testing.T, configure func(*Config)) *agent {
	t.Helper()
	a := &agent{T: t, parser: NewParser()}
	server := ttrpc.NewServer(ttrpc.ServerOptions{})
	r := agentpb.RegisterAgentService(server)
	empty := &agentpb.Empty{}
	r.CreateSandbox(handle[agentpb.CreateSandboxRequest](a, "CreateSandbox", empty, nil))
	r.CreateContainer(handle[agentpb.CreateContainerRequest](a, "CreateContainer", empty, nil))
	r.StartContainer(handle[agentpb.StartContainerRequest](a, "StartContainer", empty, nil))
	r.RemoveContainer(handle[agentpb.RemoveContainerRequest](a, "RemoveContainer", empty, nil))
	r.ExecProcess(handle[agentpb.ExecProcessRequest](a, "ExecProcess", empty, nil))
	r.SignalProcess(handle[agentpb.SignalProcessRequest](a, "SignalProcess", empty, nil))
	r.UpdateContainer(handle[agentpb.UpdateContainerRequest](a, "UpdateContainer", empty, nil))
	r.CopyFile(handle[agentpb.CopyFileRequest](a, "CopyFile", empty, nil))
	r.ReadStdout(handle[agentpb.ReadStreamRequest](a, "ReadStdout", &agentpb.ReadStreamResponse{Data: []byte("out")}, nil))
	r.GetGuestDetails(handle[agentpb.GuestDetailsRequest](a, "GetGuestDetails", &agentpb.GuestDetailsResponse{}, nil))
	r.PauseContainer(handle[agentpb.PauseContainerRequest](a, "PauseContainer", empty, ttrpc.Errorf(ttrpc.NotFound, "container %q: not found", "x")))
	r.GetOOMEvent(func(ctx context.Context, _ *agentpb.GetOOMEventRequest) (*agentpb.OOMEvent, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	})
	healthpb.RegisterHealth(server).Check(handle[healthpb.CheckRequest](a, "Check",
		&healthpb.HealthCheckResponse{Status: healthpb.HealthCheckResponse_SERVING}, nil))
	ours, theirs := net.Pipe()
	served := make(chan error, 1)
	go func() { served <- server.ServeConn(context.Background(), theirs) }()
	cfg := Config{Client: ttrpc.NewClient(ours), Address: "unix:///agent", Out: &a.out, Err: &a.err, Log: slog.New(slog.DiscardHandler)}
	configure(&cfg)
	a.session = NewSession(cfg)
	t.Cleanup(func() {
		_ = cfg.Client.Close()
		_ = server.Close()
		<-served
	})
	return a
}

// run runs lines and returns the last error.
func (a *agent) run(lines ...string) (err error) {
	a.Helper()
	for _, line := range lines {
		c, parseErr := a.parser.Parse(line)
		if parseErr != nil {
			a.Fatal(parseErr)
		}
		err = a.session.Run(a.Context(), c)
	}
	return err
}

// must runs lines that succeed.
func (a *agent) must(lines ...string) {
	a.Helper()
	for _, line := range lines {
		if err := a.run(line); err != nil {
			a.Fatalf("%s: %v", line, err)
		}
	}
}

// wants compares what was asked.
func (a *agent) wants(asked ...string) {
	a.Helper()
	a.mu.Lock()
	defer a.mu.Unlock()
	if diff := cmp.Diff(asked, a.asked); diff != "" {
		a.Error(diff)
	}
	a.asked = nil
}

func plain(*Config) {}

func TestIDsAreRemembered(t *testing.T) {
	a := newAgent(t, plain)
	a.must("StartContainer cid=one", "StartContainer", "StartContainer container_id=two", "SignalProcess", `StartContainer json://{"containerId":"three"}`,
		"RemoveContainer sid=pod timeout=3", "CreateSandbox hostname=h")
	a.wants(`StartContainer {"container_id":"one"}`, `StartContainer {"container_id":"one"}`, `StartContainer {"container_id":"two"}`,
		`SignalProcess {"container_id":"two","exec_id":"","signal":15,"all":false}`, `StartContainer {"container_id":"three"}`,
		`RemoveContainer {"container_id":"three","timeout":3}`,
		`CreateSandbox {"hostname":"h","dns":[],"storages":[],"sandbox_pidns":false,"sandbox_id":"pod","guest_hook_path":"","kernel_modules":[]}`)
	if got := a.out.String(); got != strings.Repeat("ok\n", 7) {
		t.Errorf("it says %q", got)
	}
}

func TestIDsAreMade(t *testing.T) {
	a := newAgent(t, plain)
	a.must("CreateSandbox", `CreateContainer json://{"OCI":{}}`, "StartContainer", "ExecProcess args=true")
	lines := strings.Split(a.out.String(), "\n")
	sid, cid, eid := strings.TrimPrefix(lines[0], "ok sandbox_id="), strings.TrimPrefix(lines[1], "ok container_id="), strings.TrimPrefix(lines[3], "ok exec_id=")
	if len(sid) != 64 || len(cid) != 64 || sid == cid || !strings.HasPrefix(eid, "exec-") {
		t.Fatalf("it says %q", lines)
	}
	for i, id := range []string{sid, cid, cid, eid} {
		if !strings.Contains(a.asked[i], `"`+id+`"`) {
			t.Errorf("%s is not in %s", id, a.asked[i])
		}
	}
}

func TestNothingIsAddedWhenNotWanted(t *testing.T) {
	a := newAgent(t, func(c *Config) { c.NoDefaults = true })
	a.must("StartContainer cid=x", "StartContainer", "SignalProcess", "ReadStdout", "GetGuestDetails")
	a.wants(`StartContainer {"container_id":"x"}`, `StartContainer {"container_id":""}`, `SignalProcess {"container_id":"","exec_id":"","signal":0,"all":false}`,
		`ReadStdout {"container_id":"","exec_id":"","len":0}`, `GetGuestDetails {"mem_block_size":false,"mem_hotplug_probe":false}`)
}

func TestDefaultsGiveWay(t *testing.T) {
	a := newAgent(t, plain)
	a.must("GetGuestDetails", "GetGuestDetails mem_block_size=true", `GetGuestDetails json://{}`, "ReadStdout cid=c", "ReadStdout len=0", "SignalProcess signal=0",
		"CopyFile path=/x data=abc", "CopyFile path=/x data=abc offset=3 file_size=6 file_mode=0100600 dir_mode=0700")
	a.wants(`GetGuestDetails {"mem_block_size":true,"mem_hotplug_probe":true}`,
		`GetGuestDetails {"mem_block_size":true,"mem_hotplug_probe":false}`,
		`GetGuestDetails {"mem_block_size":false,"mem_hotplug_probe":false}`,
		`ReadStdout {"container_id":"c","exec_id":"","len":65536}`, `ReadStdout {"container_id":"c","exec_id":"","len":0}`,
		`SignalProcess {"container_id":"c","exec_id":"","signal":0,"all":false}`,
		`CopyFile {"path":"/x","file_size":"3","file_mode":33188,"dir_mode":493,"uid":0,"gid":0,"offset":"0","data":"YWJj"}`,
		`CopyFile {"path":"/x","file_size":"6","file_mode":33152,"dir_mode":448,"uid":0,"gid":0,"offset":"3","data":"YWJj"}`)
}

func TestRequestsFromFiles(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	a := newAgent(t, plain)
	request, data := write("request.json", `{"container_id": "c"}`), write("data", "abc")
	t.Chdir(dir)
	a.must("StartContainer "+request, "StartContainer file://"+request, "CopyFile path=/x data=file://"+data, "StartContainer request.json")
	if len(a.asked) != 4 || a.asked[3] != a.asked[1] || a.asked[1] != `StartContainer {"container_id":"c"}` || !strings.Contains(a.asked[2], `"data":"YWJj"`) {
		t.Errorf("%q", a.asked)
	}
	if err := os.Truncate(data, maxFile+1); err != nil {
		t.Fatal(err)
	}
	for line, want := range map[string]string{
		"StartContainer /does/not/exist":                "no such file",
		"StartContainer " + write("wrong", `{"x": 1}`):  dir + `/wrong: (line 1:2): unknown field "x"`,
		"CopyFile path=/x data=file://" + data:          "larger than 4194304 bytes",
		"CopyFile path=/x data=file:///does/not/exist":  "no such file",
		"CreateContainer":                               "there is no spec",
		"CreateContainer spec=/does/not/exist":          "read the spec",
		"CreateContainer spec=" + write("c.json", "{"):  "unexpected end",
		"CreateContainer spec=" + write("d.json", "{}"): "root.path is missing",
		"ExecProcess spec=" + write("e.json", "{}"):     "has no process",
		"UpdateContainer spec=" + write("f.json", "{}"): "has no linux.resources",
		"ExecProcess spec=file:///does/not/exist":       "no such file",
	} {
		a.asked = nil
		if err := a.run(line); err == nil || !strings.Contains(err.Error(), want) || len(a.asked) != 0 {
			t.Errorf("%s: %v, want %s; asked %q", line, err, want, a.asked)
		}
	}
}

func TestFailuresTellCallAddressAndAnswer(t *testing.T) {
	a := newAgent(t, plain)
	for line, want := range map[string]string{
		"PauseContainer cid=x": `PauseContainer at unix:///agent: NotFound: container "x": not found`,
		"GetMetrics":           `GetMetrics at unix:///agent: Unimplemented: method grpc.AgentService/GetMetrics is not implemented`,
		"GetOOMEvent":          `GetOOMEvent at unix:///agent: DeadlineExceeded: `,
	} {
		if a.session.cfg.Timeout = 0; line == "GetOOMEvent" {
			a.session.cfg.Timeout = 20 * time.Millisecond
		}
		err := a.run(line)
		var failed *CallError
		if !errors.As(err, &failed) || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%s: %v, want %s", line, err, want)
		}
	}
	a.session.cfg.Timeout = 0
	_ = a.session.cfg.Client.Close()
	if err := a.run("Check"); err == nil || err.Error() != "Check at unix:///agent: Unavailable: the agent closed the connection" {
		t.Errorf("without an agent: %v", err)
	}
}

func TestInterrupt(t *testing.T) {
	a := newAgent(t, plain)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	c, err := a.parser.Parse("repeat -1 Check")
	if err != nil {
		t.Fatal(err)
	}
	if err := a.session.Run(ctx, c); err == nil {
		t.Error("for ever has an end")
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	c, _ = a.parser.Parse("sleep 1h")
	if err := a.session.Run(ended, c); !errors.Is(err, context.Canceled) {
		t.Errorf("interrupted sleep: %v", err)
	}
	a.must("Check") // the session goes on
}

func TestJSONLines(t *testing.T) {
	a := newAgent(t, func(c *Config) { c.JSON = true })
	a.must("Check", "StartContainer cid=c", "ReadStdout exec_id=e", `echo a "b`+"\t"+`c"`)
	a.session.Report(a.run("PauseContainer"))
	a.session.Report(a.run("CreateContainer"))
	want := `{"command":"Check","response":{"status":"SERVING"}}
{"command":"StartContainer","container_id":"c","response":{}}
{"command":"ReadStdout","container_id":"c","exec_id":"e","response":{"data":"b3V0"}}
{"command":"echo","response":{"text":"a b\tc\n"}}
{"command":"PauseContainer","address":"unix:///agent","error":{"code":"NotFound","message":"container \"x\": not found"}}
{"error":{"message":"CreateContainer: there is no spec: name one with spec=file:///…/config.json or --bundle-dir, or give OCI="}}
`
	if diff := cmp.Diff(want, a.out.String()); diff != "" {
		t.Error(diff)
	}
	for line := range strings.Lines(a.out.String()) {
		if !json.Valid([]byte(line)) {
			t.Errorf("no JSON: %s", line)
		}
	}
	if a.err.Len() != 0 {
		t.Errorf("on the other output: %s", a.err.String())
	}
}

func TestRepeat(t *testing.T) {
	a := newAgent(t, plain)
	a.must("repeat 2 repeat 2 Check", "repeat 3", "Check", "Check")
	if len(a.asked) != 8 {
		t.Errorf("%d calls, want 8", len(a.asked))
	}
	a.asked = nil
	if err := a.run("repeat 3 PauseContainer cid=x"); err == nil || len(a.asked) != 1 {
		t.Errorf("%v after %d failures", err, len(a.asked))
	}
	if err := a.run("repeat 3 quit"); !errors.Is(err, ErrQuit) {
		t.Errorf("repeat quit: %v", err)
	}
	b := newAgent(t, func(c *Config) { c.IgnoreErrors = true })
	if err := b.run("repeat 3 PauseContainer cid=x"); err != nil || len(b.asked) != 3 || strings.Count(b.err.String(), "NotFound") != 3 {
		t.Errorf("%v after %d failures: %s", err, len(b.asked), b.err.String())
	}
}

func TestAnswersThatCannotBeWrittenAreErrors(t *testing.T) {
	a := newAgent(t, func(c *Config) { c.Out = broken{} })
	if err := a.run("Check"); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("%v", err)
	}
}

type broken struct{}

func (broken) Write([]byte) (int, error) { return 0, fmt.Errorf("here: %w", io.ErrClosedPipe) }
