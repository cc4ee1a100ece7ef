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
	"kata/host/process"
	"kata/host/vmm"
	"kata/host/vmm/accel"
	"kata/host/vmm/qemu"
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
	// Device, if set, gets the vsock device before the machine is started.
	Device func(*vsock.Device)
}

// VM is a machine with a running agent.
type VM struct {
	testing.TB
	Machine vmm.Machine
	// Agent and Health call over one connection.
	Agent  *agentpb.AgentServiceClient
	Health *healthpb.HealthClient

	device *vsock.Device
	execs  int // started by Execs and Pour
}

// Boot boots a machine that ends with the test.
func Boot(tb testing.TB, o Options) *VM {
	tb.Helper()
	v := &VM{TB: tb}
	dir, err := os.MkdirTemp("", "agentvm") // short: sockets lie below it
	v.must(err)
	tb.Cleanup(func() { _ = os.RemoveAll(dir) })
	v.device, err = vsock.New(vsock.Config{Socket: filepath.Join(dir, "vsock.sock"), GuestCID: api.GuestCID, Log: slog.New(slog.DiscardHandler)})
	v.must(err)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = v.device.Run(context.Background())
	}()
	tb.Cleanup(func() {
		_ = v.device.Close()
		<-ended
	})
	if o.Device != nil {
		o.Device(v.device)
	}
	ready, err := v.device.Listen(api.PortReady)
	v.must(err)
	defer ready.Close()
	v.start(dir, o)
	v.await(ready)
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
	verdict, err := accel.Probe(v.Context(), "auto")
	v.must(err)
	v.Machine, err = qemu.New(vmm.Spec{
		ID: "agentvm", Dir: dir, VCPUs: max(o.VCPUs, 1), MemoryMiB: 512,
		Kernel: kernel, Initrd: image, Accel: verdict.Name,
		KernelParams: append([]string{fmt.Sprintf("agent.ready_vport=%d", api.PortReady)}, o.Params...),
		Vsock:        &vmm.Vsock{Socket: filepath.Join(dir, "vsock.sock")},
	}, qemu.Config{}, process.NewSpawner(), slog.New(slog.DiscardHandler))
	v.must(err)
	v.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), pace.Of(stopLimit))
		defer cancel()
		if err := v.Machine.Stop(ctx); err != nil {
			v.Errorf("stop the machine: %v", err)
		}
	})
	ctx, cancel := context.WithTimeout(v.Context(), pace.Of(bootLimit))
	defer cancel()
	v.must(v.Machine.Start(ctx))
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

// await waits for the agent's knock.
func (v *VM) await(ready net.Listener) {
	v.Helper()
	knocked := make(chan error, 1)
	go func() {
		conn, err := ready.Accept()
		if err == nil {
			err = conn.Close()
		}
		knocked <- err
	}()
	select {
	case err := <-knocked:
		v.must(err)
	case <-v.Machine.Done():
		v.Fatalf("the machine has ended: %v", v.Machine.Err())
	case <-time.After(pace.Of(bootLimit)):
		v.Fatalf("the agent was not up within %s; the console's last lines:\n%s", bootLimit, v.Machine.ConsoleTail())
	}
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
	return v.device.Dial(ctx, port)
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
