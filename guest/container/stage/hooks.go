package stage

import (
	"context"
	"path"

	"golang.org/x/sys/unix"

	"kata/api/ocipb"
	"kata/guest/container/hooks"
	"kata/lib/fmt"
)

// RunsHooks says whether a stage stops for the runtime to run hooks.
func RunsHooks(h *ocipb.Hooks) bool {
	return len(hooks.Of(h, hooks.Prestart))+len(hooks.Of(h, hooks.CreateRuntime)) > 0
}

// State is what hooks are told of a container whose status and process are as
// given.
func State(spec *ocipb.Spec, id, status string, pid int) hooks.State {
	return hooks.State{
		Version: spec.Version, ID: id, Status: status, PID: pid,
		Bundle: path.Dir(path.Clean(spec.Root.GetPath())), Annotations: spec.Annotations,
	}
}

// createHooks lets the runtime run its hooks, and then runs those of the
// container's namespaces.
func createHooks(c conn, spec *ocipb.Spec, id string) error {
	if RunsHooks(spec.Hooks) {
		if err := c.send(Hooks, nil); err != nil {
			return err
		}
		if err := c.awaitGo(); err != nil {
			unix.Exit(1) // one has failed, or the runtime gave up
		}
	}
	return runHooks(hooks.CreateContainer, spec, id, "creating")
}

func runHooks(k hooks.Kind, spec *ocipb.Spec, id, status string) error {
	return hooks.Start(startChild).Run(context.Background(), k, hooks.Of(spec.Hooks, k), State(spec, id, status, unix.Getpid()))
}

// child is a child of the stage, known by its process ID.
type child int

func startChild(fork func() (int, error)) (hooks.Child, error) {
	pid, err := fork()
	return child(pid), err
}

// Kill implements hooks.Child.
func (c child) Kill() { _ = unix.Kill(-int(c), unix.SIGKILL) }

// Wait implements hooks.Child.
func (c child) Wait() int {
	var status unix.WaitStatus
	for {
		_, err := unix.Wait4(int(c), &status, unix.WALL, nil)
		switch {
		case err == unix.EINTR:
		case err != nil:
			panic(fmt.Sprintf("wait for child %d: %v", c, err)) // there is nobody else who could have
		case status.Signaled():
			return 128 + int(status.Signal())
		default:
			return status.ExitStatus()
		}
	}
}
