package agentvm

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"kata/api"
	"kata/api/agentpb"
	"kata/api/healthpb"
	"kata/api/ttrpc"
	"kata/host/guestvm"
	"kata/host/process"
	"kata/host/undo"
	"kata/host/vmm"
	"kata/host/vsock"
	"kata/image/initrd"
	"kata/test/harness"
	"kata/test/pace"
)

const (
	bootLimit = 2 * time.Minute
	stopLimit = 30 * time.Second
)

// AgentEnv names another agent than bin/kata-agent, to compare two.
const AgentEnv = "KATA_TEST_AGENT"

// Options say what to boot.
type Options struct {
	// Params are kernel parameters of the agent, as "agent.log=debug".
	Params []string
	VCPUs  int // 1 when zero
	// Files are in the image besides.
	Files []initrd.Entry
	// PackageKernel boots the distribution's kernel instead of the purpose-built
	// one, with its modules in the image.
	PackageKernel bool
	// NoHelpers leaves the agent's helpers out of the image.
	NoHelpers bool
	// Link, if set, gets the vsock device before the machine is started.
	Link func(vsock.Dialer)
}

// VM is a machine with a running agent.
type VM struct {
	testing.TB
	Machine guestvm.Machine
	// Agent and Health call over one connection.
	Agent  *agentpb.AgentServiceClient
	Health *healthpb.HealthClient

	guest *guestvm.VM
	execs int // started by Execs and Pour
}

// Boot boots a machine that ends with the test.
func Boot(tb testing.TB, o Options) *VM {
	tb.Helper()
	v := &VM{TB: tb}
	dir, err := os.MkdirTemp("", "agentvm") // short: sockets lie below it
	v.must(err)
	tb.Cleanup(func() { _ = os.RemoveAll(dir) })
	v.start(dir, o)
	client := v.Connect()
	v.Agent, v.Health = agentpb.NewAgentServiceClient(client), healthpb.NewHealthClient(client)
	return v
}

// start starts the machine.
func (v *VM) start(dir string, o Options) {
	v.Helper()
	repo, err := harness.Repository()
	v.must(err)
	image := filepath.Join(dir, "initrd.img")
	kernel, modules := repo.Kernel(), ""
	if o.PackageKernel {
		kernel, _, modules, err = harness.PackageGuest(v.Context(), repo, os.Stderr)
		v.must(err)
	}
	v.must(writeInitrd(image, AgentBinary(v), modules, o))
	log, spawner := slog.New(slog.DiscardHandler), process.NewSpawner()
	stack := undo.New(new(undo.Memory))
	v.Cleanup(func() {
		defer spawner.Close()
		ctx, cancel := context.WithTimeout(context.Background(), pace.Of(stopLimit))
		defer cancel()
		if err := stack.Run(ctx); err != nil {
			v.Errorf("stop the machine: %v", err)
		}
	})
	limit := pace.Of(bootLimit)
	ctx, cancel := context.WithTimeoutCause(v.Context(), limit, fmt.Errorf("the agent was not up within %s", limit))
	defer cancel()
	v.guest, err = guestvm.Boot(ctx, guestvm.Config{
		Machine: vmm.Spec{
			ID: "agentvm", Dir: dir, VCPUs: max(o.VCPUs, 1), MemoryMiB: 512,
			Kernel: kernel, Initrd: image, KernelParams: o.Params,
		},
		Accel: "auto", StopTimeout: pace.Of(stopLimit), Log: log,
	}, parts{&guestvm.Host{Spawner: spawner, Log: log}, o.Link}, stack)
	v.must(err)
	v.Machine = v.guest.Machine()
}

// parts are those of a pod's guest.
type parts struct {
	*guestvm.Host
	listen func(vsock.Dialer)
}

// Link implements guestvm.Parts.
func (p parts) Link(socket string) (guestvm.Link, error) {
	link, err := p.Host.Link(socket)
	if err == nil && p.listen != nil {
		p.listen(link)
	}
	return link, err
}

// AgentBinary is the agent that machines boot.
func AgentBinary(tb testing.TB) string {
	tb.Helper()
	if path := os.Getenv(AgentEnv); path != "" {
		return path
	}
	repo, err := harness.Repository()
	if err != nil {
		tb.Fatal(err)
	}
	return filepath.Join(repo.Bin(), "kata-agent")
}

// Connect opens one more connection for calls, which ends with the test.
func (v *VM) Connect() *ttrpc.Client {
	v.Helper()
	conn, err := v.Dial()
	v.must(err)
	client := ttrpc.NewClient(conn)
	v.Cleanup(func() { _ = client.Close() })
	return client
}

// Dial opens a connection to the port for calls.
func (v *VM) Dial() (net.Conn, error) { return v.DialPort(api.PortAgent) }

// DialPort opens a connection to a port of the guest.
func (v *VM) DialPort(port uint32) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(v.Context(), pace.Of(bootLimit))
	defer cancel()
	return v.guest.Dial(ctx, port)
}

// Alive fails the test unless the agent answers.
func (v *VM) Alive() {
	v.Helper()
	ctx, cancel := context.WithTimeout(v.Context(), pace.Of(time.Minute))
	defer cancel()
	if _, err := v.Health.Check(ctx, &healthpb.CheckRequest{}); err != nil {
		v.dead(err)
	}
}

// dead fails the test for a call that should have been answered.
func (v *VM) dead(err error) {
	v.Helper()
	select {
	case <-v.Machine.Done():
		err = errors.Join(err, v.Machine.Err())
	case <-time.After(time.Second): // a machine that is ending takes its time
	}
	v.Fatalf("the agent does not answer: %v\nthe console's last lines:\n%s", err, v.Machine.ConsoleTail())
}

// must fails the test at once for an error.
func (v *VM) must(err error) {
	v.Helper()
	if err != nil {
		v.Fatal(err)
	}
}
