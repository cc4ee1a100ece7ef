// Package shim is containerd's shim for pods in virtual machines: the program
// behind cmd/containerd-shim-kata-v2, put together from its parts.
//
// bootstrap answers containerd's command lines and forks the server; the server
// runs here: task serves containerd's task API on top of host/sandbox, event
// tells containerd what happens. There is one server a pod. It ends when
// containerd asks it to and nothing is left, when a signal asks it to, or when
// it has nothing to do and nobody is connected.
package shim

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"

	"kata/host/shim/bootstrap"
	"kata/host/shim/task"
)

// StateRoot is the folder that holds a folder for each sandbox.
const StateRoot = "/run/kata"

// ConsoleRoot is the folder that holds the consoles of sandboxes with enable_debug,
// a folder each, of 8 MiB at most. It is on disk, since /run is memory.
const ConsoleRoot = "/var/log/kata"

// Program is one call of the shim.
type Program struct {
	Build  bootstrap.Build
	Stdin  io.Reader
	Stdout io.Writer
	Stderr io.Writer
	Getenv func(string) string
	// Boot and Cleanup are host/sandbox's, unless a test puts others here.
	Boot    func(BootEnv) Boot
	Cleanup func(log *slog.Logger) bootstrap.Cleanup
}

// BootEnv is what the sandbox of a server has from it.
type BootEnv struct {
	Namespace string
	Log       *slog.Logger
	// Debug lowers the level of Log, when the configuration says so.
	Debug func()
	// HostMounts is the mount namespace in which the shim was started.
	HostMounts *os.File
}

// Boot starts a sandbox.
type Boot func(ctx context.Context, r task.BootRequest) (task.Sandbox, error)

// New returns the program as it is called by the process's own command line.
func New(build bootstrap.Build) *Program {
	return &Program{
		Build: build, Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr, Getenv: os.Getenv,
		Boot: bootSandbox, Cleanup: cleanupSandbox,
	}
}

// Run does what the arguments, without the program's name, ask for.
func (p *Program) Run(ctx context.Context, args []string) error {
	inv, err := bootstrap.Parse(args, p.Getenv)
	if err != nil {
		return err
	}
	switch {
	case inv.Version:
		return bootstrap.PrintVersion(p.Build, p.Stdout)
	case inv.Info:
		return bootstrap.PrintInfo(p.Build, p.stdin(), p.Stdout)
	case inv.Action == bootstrap.ActionStart:
		return bootstrap.Start(ctx, inv, p.stdin(), p.Stdout)
	case inv.Action == bootstrap.ActionDelete:
		// containerd logs what delete writes to stderr as warnings.
		log := slog.New(slog.NewTextHandler(p.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
		return bootstrap.Delete(ctx, inv, p.Cleanup(log), p.Stdout, log)
	}
	if err := p.serve(ctx, inv); err != nil {
		return fmt.Errorf("shim of %s: %w", inv.ID, err)
	}
	return nil
}

// stdin is standard input, unless that is a terminal, where nobody types
// protobuf.
func (p *Program) stdin() io.Reader {
	if f, ok := p.Stdin.(*os.File); ok {
		if info, err := f.Stat(); err != nil || info.Mode()&os.ModeCharDevice != 0 {
			return eof{}
		}
	}
	return p.Stdin
}

type eof struct{}

func (eof) Read([]byte) (int, error) { return 0, io.EOF }
