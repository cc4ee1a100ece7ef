package main

import (
	"context"

	"kata/guest/agent/console"
	"kata/guest/agent/reaper"
	"kata/guest/agent/vsock"
)

// listenConsole listens for the debug console, if there is to be one that is
// reached by a port.
func (a *agent) listenConsole() (err error) {
	if a.init && a.params.DebugConsolePort != 0 {
		a.console, err = vsock.Listen(a.params.DebugConsolePort)
	}
	return err
}

// serveConsole gives debug shells until ctx ends. The agent goes on without them.
func (a *agent) serveConsole(ctx context.Context, children *reaper.Reaper) {
	log := a.log.Subsystem("debug_console")
	shells := console.New(console.Config{Reaper: children, Log: log})
	var err error
	switch {
	case a.console != nil:
		err = shells.Serve(a.console)
	case a.init && a.params.DebugConsole:
		err = shells.Machine(ctx.Done())
	}
	if err != nil {
		log.Error("no debug console", "error", err)
	}
}
