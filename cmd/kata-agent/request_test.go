package main

import (
	"strings"
	"testing"

	"kata/api/agentpb"
	"kata/api/ocipb"
	"kata/api/ttrpc"
)

func TestWithoutASandbox(t *testing.T) {
	g := startAgent(t)
	g.code("create", g.create("c", g.spec("c", process("true")), streams{}), ttrpc.FailedPrecondition, "no sandbox")
	g.sandbox()
	_, err := g.agent.CreateSandbox(t.Context(), &agentpb.CreateSandboxRequest{SandboxId: "pod"})
	g.code("second sandbox", err, ttrpc.AlreadyExists, `"pod"`)
}

func TestWhatChangesTheMachineIsRefusedOutsideAVM(t *testing.T) {
	g := startAgent(t)
	_, err := g.agent.SetGuestDateTime(t.Context(), &agentpb.SetGuestDateTimeRequest{Sec: 1})
	g.code("SetGuestDateTime", err, ttrpc.FailedPrecondition, "init")
	_, err = g.agent.ReseedRandomDev(t.Context(), &agentpb.ReseedRandomDevRequest{Data: []byte("x")})
	g.code("ReseedRandomDev", err, ttrpc.FailedPrecondition, "init")
}

func TestGuestDetails(t *testing.T) {
	g := startAgent(t)
	details, err := g.agent.GetGuestDetails(t.Context(), &agentpb.GuestDetailsRequest{MemBlockSize: true, MemHotplugProbe: true})
	if err != nil {
		t.Fatal(err)
	}
	const storages = "9p bind blk ephemeral erofs.multi-layer local mmioblk nvdimm overlayfs scsi virtio-fs"
	got := details.AgentDetails
	if got.Version != version || got.InitDaemon || strings.Join(got.StorageHandlers, " ") != storages {
		t.Errorf("details %+v", got)
	}
}

func TestSenselessRequestsAreInvalidAndNameTheField(t *testing.T) {
	g := startAgent(t).sandbox()
	g.run("c", process("sleep", "1000"), streams{})
	ctx := t.Context()
	ok := func() *ocipb.Spec { return g.spec("x", process("true")) }
	create := func(req *agentpb.CreateContainerRequest) func() error {
		return func() error { _, err := g.agent.CreateContainer(ctx, req); return err }
	}
	exec := func(req *agentpb.ExecProcessRequest) func() error {
		return func() error { _, err := g.agent.ExecProcess(ctx, req); return err }
	}
	for _, tt := range []struct {
		name string
		call func() error
		want string
	}{
		{"no container", create(&agentpb.CreateContainerRequest{OCI: ok()}), "container_id"},
		{"a path for a name", create(&agentpb.CreateContainerRequest{ContainerId: "../x", OCI: ok()}), `container_id "../x"`},
		{"a long name", create(&agentpb.CreateContainerRequest{ContainerId: strings.Repeat("x", 256), OCI: ok()}), "container_id"},
		{"no spec", create(&agentpb.CreateContainerRequest{ContainerId: "x"}), "OCI"},
		{"no process", create(&agentpb.CreateContainerRequest{ContainerId: "x", OCI: &ocipb.Spec{}}), "OCI.Process"},
		{"no root", create(&agentpb.CreateContainerRequest{ContainerId: "x", OCI: &ocipb.Spec{Process: process("true")}}), "oot"},
		{"no arguments", create(&agentpb.CreateContainerRequest{ContainerId: "x", OCI: g.spec("x", process())}), "args"},
		{"an empty namespace", create(&agentpb.CreateContainerRequest{ContainerId: "x", OCI: &ocipb.Spec{
			Process: process("true"), Root: &ocipb.Root{Path: "/nonexistent"}, Linux: &ocipb.Linux{Namespaces: []*ocipb.LinuxNamespace{nil}},
		}}), "namespace"},
		{"a device", create(&agentpb.CreateContainerRequest{ContainerId: "x", OCI: ok(), Devices: []*agentpb.Device{{Type: "floppy"}}}), `devices[0].type "floppy"`},
		{"an empty device", create(&agentpb.CreateContainerRequest{ContainerId: "x", OCI: ok(), Devices: []*agentpb.Device{nil}}), "devices[0].type"},
		{"a user that is not there", create(&agentpb.CreateContainerRequest{ContainerId: "x", OCI: ok(), StringUser: &agentpb.StringUser{Uid: "eve"}}), `string_user: the container has no user "eve"`},
		{"an unknown driver", create(&agentpb.CreateContainerRequest{ContainerId: "x", OCI: ok(), Storages: []*agentpb.Storage{{Driver: "tape"}}}), `driver "tape"`},
		{"one port twice", create(&agentpb.CreateContainerRequest{ContainerId: "x", OCI: ok(), StdinPort: 5, StderrPort: 5}), "stderr_port 5"},
		{"exec without a name", exec(&agentpb.ExecProcessRequest{ContainerId: "c", Process: process("true")}), "exec_id"},
		{"exec without a process", exec(&agentpb.ExecProcessRequest{ContainerId: "c", ExecId: "e"}), "process"},
		{"exec without arguments", exec(&agentpb.ExecProcessRequest{ContainerId: "c", ExecId: "e", Process: process()}), "args"},
		{"a terminal's stderr", exec(&agentpb.ExecProcessRequest{ContainerId: "c", ExecId: "e", Process: &ocipb.Process{Terminal: true}, StderrPort: 9}), "stderr_port 9"},
		{"signal 65", func() error {
			_, err := g.agent.SignalProcess(ctx, &agentpb.SignalProcessRequest{ContainerId: "c", Signal: 65})
			return err
		}, "signal 65"},
		{"a read of nothing", func() error {
			_, err := g.agent.ReadStdout(ctx, &agentpb.ReadStreamRequest{ContainerId: "c"})
			return err
		}, "len 0"},
		{"too many rows", func() error {
			_, err := g.agent.TtyWinResize(ctx, &agentpb.TtyWinResizeRequest{ContainerId: "c", Row: 70000})
			return err
		}, "row 70000"},
		{"an unknown format", func() error {
			_, err := g.agent.ListProcesses(ctx, &agentpb.ListProcessesRequest{ContainerId: "c", Format: "xml"})
			return err
		}, `format "xml"`},
		{"no resources", func() error {
			_, err := g.agent.UpdateContainer(ctx, &agentpb.UpdateContainerRequest{ContainerId: "c"})
			return err
		}, "resources"},
		{"a time before the epoch", func() error {
			_, err := g.agent.SetGuestDateTime(ctx, &agentpb.SetGuestDateTimeRequest{Sec: -1})
			return err
		}, "Sec -1"},
		{"more microseconds than a second has", func() error {
			_, err := g.agent.SetGuestDateTime(ctx, &agentpb.SetGuestDateTimeRequest{Sec: 1, Usec: 1e6})
			return err
		}, "Usec 1000000"},
		{"no entropy", func() error {
			_, err := g.agent.ReseedRandomDev(ctx, &agentpb.ReseedRandomDevRequest{})
			return err
		}, "data"},
		{"a kernel module", func() error {
			_, err := g.agent.CreateSandbox(ctx, &agentpb.CreateSandboxRequest{KernelModules: []*agentpb.KernelModule{{Name: "floppy"}}})
			return err
		}, `kernel_modules "floppy"`},
		{"a long hostname", func() error {
			_, err := g.agent.CreateSandbox(ctx, &agentpb.CreateSandboxRequest{Hostname: strings.Repeat("h", 65)})
			return err
		}, "hostname"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			err := tt.call()
			if ttrpc.CodeOf(err) != ttrpc.InvalidArgument || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%v (%v), want InvalidArgument with %q", err, ttrpc.CodeOf(err), tt.want)
			}
		})
	}
}

func TestUnknownNamesAreNotFound(t *testing.T) {
	g := startAgent(t).sandbox()
	g.run("c", process("sleep", "1000"), streams{})
	ctx := t.Context()
	for name, call := range map[string]func(id, execID string) error{
		"StartContainer": func(id, _ string) error {
			_, err := g.agent.StartContainer(ctx, &agentpb.StartContainerRequest{ContainerId: id})
			return err
		},
		"RemoveContainer": func(id, _ string) error {
			_, err := g.agent.RemoveContainer(ctx, &agentpb.RemoveContainerRequest{ContainerId: id})
			return err
		},
		"StatsContainer": func(id, _ string) error {
			_, err := g.agent.StatsContainer(ctx, &agentpb.StatsContainerRequest{ContainerId: id})
			return err
		},
		"WaitProcess": func(id, execID string) error {
			_, err := g.agent.WaitProcess(ctx, &agentpb.WaitProcessRequest{ContainerId: id, ExecId: execID})
			return err
		},
		"SignalProcess": func(id, execID string) error {
			_, err := g.agent.SignalProcess(ctx, &agentpb.SignalProcessRequest{ContainerId: id, ExecId: execID, Signal: 9})
			return err
		},
		"WriteStdin": func(id, execID string) error {
			_, err := g.agent.WriteStdin(ctx, &agentpb.WriteStreamRequest{ContainerId: id, ExecId: execID})
			return err
		},
	} {
		g.code(name, call("nosuch", ""), ttrpc.NotFound, `container "nosuch"`)
		switch name {
		case "WaitProcess", "SignalProcess", "WriteStdin":
			g.code(name, call("c", "nosuch"), ttrpc.NotFound, `process "nosuch" of container "c"`)
		}
	}
	g.code("the same container again", g.create("c", g.spec("c", process("true")), streams{}), ttrpc.AlreadyExists, `"c"`)
	g.code("start again", call(g, "c"), ttrpc.FailedPrecondition, "started before")
	g.code("an exec with the name of the first process", g.exec("c", "c", process("true"), streams{}), ttrpc.AlreadyExists, `"c"`)
	_, err := g.agent.SetPolicy(ctx, &agentpb.SetPolicyRequest{})
	g.code("what is not offered", err, ttrpc.Unimplemented, "SetPolicy")
}

func call(g *guest, id string) error {
	_, err := g.agent.StartContainer(g.Context(), &agentpb.StartContainerRequest{ContainerId: id})
	return err
}
