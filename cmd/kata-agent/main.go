// Command kata-agent runs the containers of a pod inside its virtual machine. It
// is the machine's init and the only program in the guest's image; the host
// drives it through the agent API.
//
// It takes no flags. Its parameters are on the kernel command line, as agent.*
// (package boot). For debugging it also runs as an ordinary process, root in
// namespaces of its own:
//
//	KATA_AGENT_SERVER_ADDR=unix:///run/agent.sock unshare -m -p -f -i -u kata-agent
//
// Then it leaves the machine as it is and refuses calls that would change it;
// KATA_AGENT_LOG_LEVEL takes the place of agent.log, and stream connections go to
// the same path with ".streams" added.
package main

import (
	"context"
	"os"
	"runtime"
	"time"

	"kata/guest/agent/log"
	"kata/guest/container/stage"
)

// version is what GetGuestDetails and Version tell; the linker sets it (-X).
var version = "development"

// The main goroutine stays on the main thread (package stage says why).
func init() { runtime.LockOSThread() }

func main() {
	start := time.Now()
	stage.Main()
	logger := log.New(os.Stderr, log.LevelInfo)
	logger.SetVersion(version)
	a := &agent{log: logger, start: start, init: isInit()}
	// The main goroutine has the main thread for itself and every switch to and
	// from it is one of threads: the work is done by another one.
	result := make(chan error)
	go func() { result <- a.run(context.Background()) }()
	if err := <-result; err != nil {
		// As init this ends in a kernel panic, whose last lines the host shows.
		logger.Critical("agent ended", "error", err)
		a.hostLog.close()
		os.Exit(1)
	}
}
