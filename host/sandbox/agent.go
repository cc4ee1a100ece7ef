package sandbox

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"kata/api"
	"kata/api/agentpb"
	"kata/api/healthpb"
	"kata/api/ttrpc"
	"kata/host/pod"
)

const (
	shmSize     = 64 << 20
	entropySize = 512
)

// maxAnswer is more than any answer of a well-meaning agent takes: output does
// not come this way. A hostile one makes the shim allocate little.
const maxAnswer = 256 << 10

// destroyTimeout bounds the guest's part of an orderly stop.
const destroyTimeout = 5 * time.Second

// agentConn is the connection to the agent.
type agentConn struct {
	client  *ttrpc.Client
	service *agentpb.AgentServiceClient
	health  *healthpb.HealthClient
}

func newAgentConn(conn net.Conn) *agentConn {
	client := ttrpc.NewBoundedClient(conn, maxAnswer)
	return &agentConn{
		client:  client,
		service: agentpb.NewAgentServiceClient(client),
		health:  healthpb.NewHealthClient(client),
	}
}

// answered tells whether a call got an answer of the agent, which may be an error
// with a code; no answer has an error of the connection or of the call's context.
func answered(err error) bool {
	var status *ttrpc.Error
	return err == nil || errors.As(err, &status)
}

func (a *agentConn) lost() <-chan struct{} { return a.client.Done() }

// kernelModules are the modules of the configuration as the agent gets them.
func kernelModules(lines []string) (modules []*agentpb.KernelModule) {
	for _, line := range lines {
		if words := strings.Fields(line); len(words) > 0 {
			modules = append(modules, &agentpb.KernelModule{Name: words[0], Parameters: words[1:]})
		}
	}
	return modules
}

// setUp makes a booted guest ready for containers: clock, entropy, kernel modules,
// hostname, the folder of its hooks, the share and the pod's shared memory.
func (a *agentConn) setUp(ctx context.Context, sandboxID string, p pod.Spec, hooks string, modules []string) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		now := time.Now()
		_, err := a.service.SetGuestDateTime(ctx, &agentpb.SetGuestDateTimeRequest{
			Sec: now.Unix(), Usec: int64(now.Nanosecond() / 1000),
		})
		return wrap("set the guest's clock", err)
	})
	group.Go(func() error {
		seed := make([]byte, entropySize)
		_, _ = rand.Read(seed) // never fails (crypto/rand)
		_, err := a.service.ReseedRandomDev(ctx, &agentpb.ReseedRandomDevRequest{Data: seed})
		return wrap("seed the guest's random numbers", err)
	})
	group.Go(func() error {
		_, err := a.service.CreateSandbox(ctx, &agentpb.CreateSandboxRequest{
			SandboxId: sandboxID, Hostname: p.Hostname, GuestHookPath: hooks, Dns: p.DNS.Lines(),
			KernelModules: kernelModules(modules),
			Storages: []*agentpb.Storage{
				{Driver: "virtio-fs", Source: api.ShareTag, Fstype: "virtiofs", MountPoint: api.GuestShare},
				{
					Driver: "ephemeral", Source: "shm", Fstype: "tmpfs", MountPoint: api.GuestShm,
					Options: []string{"noexec", "nosuid", "nodev", "mode=1777", fmt.Sprintf("size=%d", shmSize)},
				},
			},
		})
		return wrap("set up the sandbox in the guest", err)
	})
	return group.Wait()
}

// destroy ends the containers and the guest; the VMM is stopped by others
// whether or not it succeeds, so failure is only worth a log line.
func (a *agentConn) destroy(ctx context.Context, log *slog.Logger) {
	if a == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, destroyTimeout)
	defer cancel()
	_, err := a.service.DestroySandbox(ctx, &agentpb.DestroySandboxRequest{})
	if err != nil && !errors.Is(err, context.Canceled) {
		log.Debug("destroy sandbox in the guest", "error", err)
	}
}

func wrap(doing string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", doing, agentError(err))
}
