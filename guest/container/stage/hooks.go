package stage

import (
	"context"

	"golang.org/x/sys/unix"

	"kata/guest/container/hooks"
	"kata/guest/container/plan"
	"kata/lib/fmt"
)

// createHooks lets the runtime run its hooks, and then runs those of the
// container's namespaces.
func createHooks(c conn, p *plan.Plan) error {
	if p.AwaitsHooks {
		if err := c.send(plan.Hooks, nil); err != nil {
			return err
		}
		if err := c.awaitGo(); err != nil {
			unix.Exit(1) // one has failed, or the runtime gave up
		}
	}
	return runHooks(hooks.CreateContainer, p.CreateContainer, p.State, "creating")
}

// startHooks runs those that come before the command.
func startHooks(p *plan.Plan) error {
	return runHooks(hooks.StartContainer, p.StartContainer, p.State, "created")
}

func runHooks(k hooks.Kind, all []hooks.Hook, state hooks.State, status string) error {
	state.Status, state.PID = status, unix.Getpid()
	return hooks.Start(startChild).Run(context.Background(), k, all, state)
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
