// Package agent answers the calls of the agent API (api/proto): it checks what a
// request says, asks the sandbox or the machine for it, and turns what comes
// back into an answer or an error with a code.
//
// A field that is missing or absurd is InvalidArgument and named, with its
// value. A name that is not there is NotFound, one that is taken AlreadyExists,
// something that cannot be done in the present state FailedPrecondition, one
// too many ResourceExhausted. Calls that wait end with their context, which ends
// with the client's connection. Calls of the API that have no handler here
// answer Unimplemented.
//
// The package does not serve: see Service.Register.
package agent

import (
	"context"
	"errors"
	"sync"

	"kata/api/agentpb"
	"kata/api/healthpb"
	"kata/api/ttrpc"
	"kata/guest/agent/log"
	"kata/guest/container/oom"
	"kata/guest/fault"
	"kata/guest/machine/device"
	"kata/guest/machine/hotplug"
	"kata/guest/machine/module"
	"kata/guest/network/netdev"
	"kata/guest/sandbox"
	"kata/guest/storage/sharedfile"
	"kata/lib/fmt"
)

// APIVersion is the version of the agent API, as upstream's agent has it.
const APIVersion = "0.0.1"

// Config is what a Service works with.
type Config struct {
	// Version is the agent's, for Version and GetGuestDetails.
	Version string
	Sandbox *sandbox.Sandbox
	// Init says that the agent is the machine's init; otherwise calls that
	// change the machine are refused.
	Init bool
	Log  *log.Logger
	// Devices finds what the host plugs in.
	Devices *device.Finder
	// OOM has the events of GetOOMEvent; nil for none.
	OOM *oom.Watcher
	// RunHelper runs programs of the image.
	RunHelper RunHelper
	// Modules are the kernel modules of the image. Seal ends what may change the
	// machine, loading them for one; it is called before there are containers.
	Modules *module.Set
	Seal    func() error
}

// Waits tells which calls wait for something to happen in a container. There may
// be one for each process, and they must not take the room of others
// (ttrpc.ServerOptions).
func Waits(_, method string) bool { return method == "WaitProcess" || method == "GetOOMEvent" }

// CostsNothing tells which calls leave nothing behind that is worth giving back to
// the machine: the health check, which the host makes of idle pods too.
func CostsNothing(service, _ string) bool { return service == "grpc.Health" }

// Service is the implementation of AgentService and Health.
type Service struct {
	cfg       Config
	sandbox   *sandbox.Sandbox
	machine   *hotplug.Machine
	files     *sharedfile.Tree
	network   *netdev.Network
	filtering chan struct{} // full while the packet filter is being read or replaced
	destroyed chan struct{}
	once      sync.Once
}

// New returns a service.
func New(cfg Config) *Service {
	return &Service{
		cfg: cfg, sandbox: cfg.Sandbox, destroyed: make(chan struct{}),
		machine: hotplug.New(cfg.Devices.Timeout()), files: sharedfile.New(sharedfile.Root), network: netdev.New(),
		filtering: make(chan struct{}, 1),
	}
}

// Destroyed is closed when DestroySandbox has done its work: the agent is to end
// when the answer has been sent.
func (s *Service) Destroyed() <-chan struct{} { return s.destroyed }

// Register makes server, whose errors Coded is to code, answer with the service's
// handlers.
func (s *Service) Register(server *ttrpc.Server) {
	health := healthpb.RegisterHealth(server)
	health.Check(s.check)
	health.Version(s.version)

	agent := agentpb.RegisterAgentService(server)
	agent.CreateSandbox(s.createSandbox)
	agent.DestroySandbox(s.destroySandbox)
	agent.CreateContainer(s.createContainer)
	agent.StartContainer(s.startContainer)
	agent.RemoveContainer(s.removeContainer)
	agent.PauseContainer(s.pauseContainer)
	agent.ResumeContainer(s.resumeContainer)
	agent.UpdateContainer(s.updateContainer)
	agent.StatsContainer(s.statsContainer)
	agent.ListProcesses(s.listProcesses)
	agent.ExecProcess(s.execProcess)
	agent.SignalProcess(s.signalProcess)
	agent.WaitProcess(s.waitProcess)
	agent.TtyWinResize(s.ttyWinResize)
	agent.WriteStdin(s.writeStdin)
	agent.ReadStdout(s.readStdout)
	agent.ReadStderr(s.readStderr)
	agent.CloseStdin(s.closeStdin)
	agent.SetGuestDateTime(s.setGuestDateTime)
	agent.ReseedRandomDev(s.reseedRandomDev)
	agent.GetGuestDetails(s.getGuestDetails)

	s.registerNetwork(agent)
	s.registerIPTables(agent)
	s.registerHotplug(agent)
	s.registerVolumes(agent)
	s.registerFiles(agent)
	s.registerObservation(server, agent)
}

// Coded returns err with the code that says what kind of error it is. It is the
// Code of the server's options, and the only place that knows codes.
func Coded(err error) error {
	if status := (*ttrpc.Error)(nil); errors.As(err, &status) {
		return err
	}
	for _, known := range [...]struct {
		err  error
		code ttrpc.Code
	}{
		{fault.Invalid, ttrpc.InvalidArgument},
		{fault.NotFound, ttrpc.NotFound},
		{fault.Exists, ttrpc.AlreadyExists},
		{fault.State, ttrpc.FailedPrecondition},
		{fault.Limit, ttrpc.ResourceExhausted},
		{fault.Unsupported, ttrpc.Unimplemented},
		{fault.End, ttrpc.OutOfRange},
		{fault.Gone, ttrpc.Unavailable},
		{context.DeadlineExceeded, ttrpc.DeadlineExceeded},
		{context.Canceled, ttrpc.Canceled},
	} {
		if errors.Is(err, known.err) {
			return ttrpc.Errorf(known.code, "%w", err)
		}
	}
	return ttrpc.Errorf(ttrpc.Internal, "%w", err)
}

// invalid returns the error for a field that makes no sense.
func invalid(field string, value any, reason string) error {
	shown, ok := value.(string)
	if ok {
		shown = fault.Quote(shown)
	} else {
		shown = fmt.Sprintf("%v", value)
	}
	return fault.Field(field, shown, reason)
}

func (s *Service) check(context.Context, *healthpb.CheckRequest) (*healthpb.HealthCheckResponse, error) {
	return &healthpb.HealthCheckResponse{Status: healthpb.HealthCheckResponse_SERVING}, nil
}

func (s *Service) version(context.Context, *healthpb.CheckRequest) (*healthpb.VersionCheckResponse, error) {
	return &healthpb.VersionCheckResponse{GrpcVersion: APIVersion, AgentVersion: s.cfg.Version}, nil
}
