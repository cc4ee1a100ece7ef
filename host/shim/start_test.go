package shim

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	bootapi "github.com/containerd/containerd/api/runtime/bootstrap/v1"
	v2 "github.com/containerd/containerd/api/runtime/task/v2"
	v3 "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/containerd/api/types/runtimeoptions/v1"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/emptypb"

	"kata/host/shim/task/tasktest"
)

func marshal(t *testing.T, m proto.Message) []byte {
	t.Helper()
	b, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func pack(t *testing.T, url string, m proto.Message) *anypb.Any {
	t.Helper()
	return &anypb.Any{TypeUrl: url, Value: marshal(t, m)}
}

func TestAContainersWholeLife(t *testing.T) {
	d := newDaemon(t)
	b := d.bundle("c1", []string{"exit", "42"})
	s := d.start(b, nil)
	client := s.dial()
	call := func(method string, request, response proto.Message) {
		t.Helper()
		if err := client.Call(t.Context(), "containerd.task.v2.Task", method, request, response); err != nil {
			t.Fatalf("%s: %v", method, err)
		}
	}
	created := new(v2.CreateTaskResponse)
	call("Create", &v2.CreateTaskRequest{ID: "c1", Bundle: b}, created)
	if created.Pid != tasktest.FirstPID {
		t.Errorf("task's pid %d, want its process's, %d", created.Pid, tasktest.FirstPID)
	}
	call("Start", &v2.StartRequest{ID: "c1"}, new(v2.StartResponse))
	waited := new(v2.WaitResponse)
	call("Wait", &v2.WaitRequest{ID: "c1"}, waited)
	if waited.ExitStatus != 42 {
		t.Errorf("exit status %d", waited.ExitStatus)
	}
	call("Delete", &v2.DeleteRequest{ID: "c1"}, new(v2.DeleteResponse))
	call("Shutdown", &v2.ShutdownRequest{ID: "c1"}, new(emptypb.Empty))
	s.awaitEnd()
	d.wantEvents("ns /tasks/create", "ns /tasks/start", "ns /tasks/exit 42", "ns /tasks/delete")
	if exists(s.path()) {
		t.Error("the socket is left")
	}
	if out, err := d.call(b, nil, "-bundle", b, "delete"); err != nil || len(out) == 0 {
		t.Errorf("delete after an orderly end: %q, %v", out, err)
	}
	d.wantNothing(b)
}

func TestWhatStartLeaves(t *testing.T) {
	d := newDaemon(t)
	b := d.bundle("c1", []string{"sleep"})
	s := d.start(b, nil, "-debug")
	if !strings.HasPrefix(s.address, "unix://"+d.dir+"/s/") || s.address != readFile(t, b, "address") {
		t.Errorf("address %q", s.address)
	}
	socket, err := os.Stat(s.path())
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.Stat(filepath.Dir(s.path()))
	if err != nil || socket.Mode().Perm() != 0o600 || dir.Mode().Perm() != 0o711 {
		t.Errorf("modes %v of the socket, %v of its folder (%v)", socket.Mode(), dir.Mode(), err)
	}
	proc := filepath.Join("/proc", readFile(t, b, "shim.pid"))
	if cwd, err := os.Readlink(proc + "/cwd"); err != nil || cwd != b {
		t.Errorf("working directory %q (%v)", cwd, err)
	}
	if session, err := unix.Getsid(s.pid); err != nil || session != s.pid {
		t.Errorf("session %d (%v), want its own", session, err)
	}
	theirs, err := os.Readlink(proc + "/ns/mnt")
	if ours, ourErr := os.Readlink("/proc/self/ns/mnt"); err != nil || ourErr != nil || theirs == ours {
		t.Errorf("mount namespace %q, ours %q (%v)", theirs, ours, err)
	}
	if args := strings.Split(readFile(t, proc, "cmdline"), "\x00"); !strings.Contains(strings.Join(args, " "), "-namespace ns -id c1") || !strings.Contains(strings.Join(args, " "), "-debug") {
		t.Errorf("arguments %q", args)
	}
	if out, err := d.call(b, nil, "start"); err == nil || !strings.Contains(err.Error(), "already exists") {
		t.Errorf("a second start: %q, %v", out, err)
	}
	if !exists(s.path()) {
		t.Error("a second start removed the first one's socket")
	}
}

func TestStartAnswersBootstrapParameters(t *testing.T) {
	d := newDaemon(t)
	b := d.bundle("c1", []string{"exit", "0"})
	sockets := filepath.Join(d.dir, "other")
	params := &bootapi.BootstrapParams{
		InstanceID: "c1", Namespace: "ns", SocketDir: &sockets, LogLevel: bootapi.LogLevel_LOG_LEVEL_DEBUG,
		ContainerdTtrpcAddress: d.eventSocket(),
	}
	if err := params.AddExtension(pack(t, "runtimeoptions.v1.Options", &runtimeoptions.Options{ConfigPath: "/etc/c.toml"})); err != nil {
		t.Fatal(err)
	}
	if err := params.AddExtension(&types.MountCapabilities{}); err != nil {
		t.Fatal(err)
	}
	s := d.start(b, marshal(t, params))
	result := new(bootapi.BootstrapResult)
	if err := proto.Unmarshal([]byte(s.address), result); err != nil {
		t.Fatal(err)
	}
	if result.Version != 3 || result.Protocol != "ttrpc" || !strings.HasPrefix(result.Address, "unix://"+sockets+"/") {
		t.Errorf("answer %v", result)
	}
	if line := readFile(t, "/proc", readFile(t, b, "shim.pid"), "cmdline"); !strings.Contains(line, "-config\x00/etc/c.toml\x00-debug") {
		t.Errorf("arguments of the server: %q", line)
	}
	s.address = result.Address
	client := s.dial()
	if err := client.Call(t.Context(), "containerd.task.v3.Task", "Create", &v3.CreateTaskRequest{ID: "c1", Bundle: b}, new(v3.CreateTaskResponse)); err != nil {
		t.Error(err)
	}
	s.kill(unix.SIGTERM)
	s.awaitEnd()
	d.wantEvents("ns /tasks/create", "ns /tasks/exit 137")
}

func TestStartTakesOptionsOfOlderDaemons(t *testing.T) {
	d := newDaemon(t)
	b := d.bundle("c1", []string{"sleep"})
	d.start(b, marshal(t, pack(t, "runtimeoptions.v1.Options", &runtimeoptions.Options{ConfigPath: "/etc/c.toml"})))
	if line := readFile(t, "/proc", readFile(t, b, "shim.pid"), "cmdline"); !strings.Contains(line, "-config\x00/etc/c.toml") {
		t.Errorf("arguments of the server: %q", line)
	}
}

// Clients that know only runc send its options to every shim.
func TestStartIgnoresOptionsOfAnotherRuntime(t *testing.T) {
	d := newDaemon(t)
	b := d.bundle("c1", []string{"sleep"})
	d.start(b, marshal(t, &anypb.Any{TypeUrl: "containerd.runc.v1.Options", Value: []byte("\x10\x01")}))
	if line := readFile(t, "/proc", readFile(t, b, "shim.pid"), "cmdline"); strings.Contains(line, "-config") {
		t.Errorf("arguments of the server: %q", line)
	}
}

func TestAFailedStartLeavesNothing(t *testing.T) {
	for name, c := range map[string]struct {
		prepare func(t *testing.T, d *daemon) (bundle string, stdin []byte)
		want    string
	}{
		"no spec": {func(t *testing.T, d *daemon) (string, []byte) {
			b := d.bundle("c1", nil)
			return b, nil2(os.Remove(filepath.Join(b, "config.json")))
		}, "config.json: no such file"},
		"options that cannot be read": {func(t *testing.T, d *daemon) (string, []byte) {
			return d.bundle("c1", nil), marshal(t, &anypb.Any{TypeUrl: "runtimeoptions.v1.Options", Value: []byte{0xff}})
		}, "runtime options: "},
		"two managers that disagree": {func(t *testing.T, d *daemon) (string, []byte) {
			return d.bundle("c1", nil, "io.kubernetes.cri.container-type", "sandbox", "io.kubernetes.cri-o.ContainerType", "container", "io.kubernetes.cri-o.SandboxID", "s1"), nil
		}, "disagree on what the container is"},
		"more parameters of another container": {func(t *testing.T, d *daemon) (string, []byte) {
			return d.bundle("c1", nil), marshal(t, &bootapi.BootstrapParams{InstanceID: "c.2", Namespace: "ns", ContainerdGrpcAddress: "/c"})
		}, `type "c.2"`},
		"parameters of another container": {func(t *testing.T, d *daemon) (string, []byte) {
			return d.bundle("c1", nil), marshal(t, &bootapi.BootstrapParams{InstanceID: "c2", Namespace: "ns"})
		}, `type "c2"`},
		"stdin that is neither": {func(t *testing.T, d *daemon) (string, []byte) {
			return d.bundle("c1", nil), []byte("\xff\xff nonsense")
		}, "neither runtime options nor bootstrap parameters"},
		"a pod that is not there": {func(t *testing.T, d *daemon) (string, []byte) {
			return d.bundle("c1", nil, "io.kubernetes.cri.container-type", "container", "io.kubernetes.cri.sandbox-id", "s1"), nil
		}, "container c1 belongs to sandbox s1, whose shim does not answer"},
		"a pod with a wrong name": {func(t *testing.T, d *daemon) (string, []byte) {
			return d.bundle("c1", nil, "io.kubernetes.cri.container-type", "container", "io.kubernetes.cri.sandbox-id", "../s1"), nil
		}, `sandbox id "../s1" is not a name`},
		"a server that cannot start": {func(t *testing.T, d *daemon) (string, []byte) {
			b := d.bundle("c1", nil)
			return b, nil2(os.Mkdir(filepath.Join(b, "log"), 0o700))
		}, "open the log"},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDaemon(t)
			b, stdin := c.prepare(t, d)
			out, err := d.call(b, stdin, "start")
			if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") || len(out) > 0 {
				t.Errorf("start: %q, %v, want one line with %q", out, err, c.want)
			}
			d.wantNothing(b)
		})
	}
}

// nil2 is no standard input, after a step that must not fail.
func nil2(err error) []byte {
	if err != nil {
		panic(err)
	}
	return nil
}

func TestAContainerOfAPodIsServedByThePodsShim(t *testing.T) {
	d := newDaemon(t)
	s := d.start(d.bundle("s1", []string{"sleep"}, "io.kubernetes.cri.container-type", "sandbox"), nil)
	b := d.bundle("c1", []string{"sleep"}, "io.kubernetes.cri.container-type", "container", "io.kubernetes.cri.sandbox-id", "s1")
	for _, withFile := range []bool{true, false} {
		if !withFile { // found by the convention for its socket
			if err := os.Remove(filepath.Join(s.bundle, "address")); err != nil {
				t.Fatal(err)
			}
		}
		out, err := d.call(b, nil, "start")
		if err != nil || string(out) != s.address {
			t.Errorf("start: %q, %v, want %q", out, err, s.address)
		}
	}
	if readFile(t, b, "address") != s.address || exists(b, "shim.pid") {
		t.Error("the bundle has not the address, or has a shim of its own")
	}
	if _, err := d.call(b, nil, "-bundle", b, "delete"); err != nil {
		t.Error(err)
	}
	if exists(d.dir, "cleanup") || !exists(s.path()) {
		t.Error("delete of a container cleaned up its pod")
	}
}

func TestTheSocketOfADeadShimIsReplaced(t *testing.T) {
	d := newDaemon(t)
	b := d.bundle("c1", []string{"sleep"})
	dead := d.start(b, nil)
	dead.kill(unix.SIGKILL)
	dead.awaitEnd()
	if !exists(dead.path()) {
		t.Fatal("no socket is left to replace")
	}
	s := d.start(b, nil)
	if s.address != dead.address {
		t.Errorf("address %q, want %q", s.address, dead.address)
	}
	s.dial()
}

func TestAFailedBootLeavesAShimThatShutdownEnds(t *testing.T) {
	d := newDaemon(t)
	b := d.bundle("c1", []string{"no-boot"})
	s := d.start(b, nil)
	client := s.dial()
	err := client.Call(t.Context(), "containerd.task.v2.Task", "Create", &v2.CreateTaskRequest{ID: "c1", Bundle: b}, new(v2.CreateTaskResponse))
	if err == nil || !strings.Contains(err.Error(), "it is a fake") {
		t.Errorf("create: %v", err)
	}
	if err := client.Call(t.Context(), "containerd.task.v2.Task", "Shutdown", &v2.ShutdownRequest{ID: "c1"}, new(emptypb.Empty)); err != nil {
		t.Error(err)
	}
	s.awaitEnd()
}

func TestVersionAndDescription(t *testing.T) {
	d := newDaemon(t)
	b := d.bundle("c1", nil)
	out, err := d.call(b, nil, "-v")
	if want := "Kata Containers containerd shim: id: \"io.containerd.kata.v2\", version: 1.2.3, commit: abc\n"; err != nil || string(out) != want {
		t.Errorf("-v: %q, %v, want %q", out, err, want)
	}
	options := pack(t, "runtimeoptions.v1.Options", &runtimeoptions.Options{ConfigPath: "/c"})
	out, err = d.call(b, marshal(t, options), "-info")
	info := new(types.RuntimeInfo)
	if err == nil {
		err = proto.Unmarshal(out, info)
	}
	if err != nil || info.Name != "io.containerd.kata.v2" || info.Version.Version != "1.2.3" || info.Version.Revision != "abc" || !proto.Equal(info.Options, options) {
		t.Errorf("-info: %v, %v", info, err)
	}
	for _, args := range [][]string{{"-nonsense"}, {"jump"}, {"start", "delete"}, {"-id", "../x", "start"}} {
		if out, err := d.call(b, nil, args...); err == nil || len(out) > 0 {
			t.Errorf("%v: %q, %v, want an error", args, out, err)
		}
	}
}
