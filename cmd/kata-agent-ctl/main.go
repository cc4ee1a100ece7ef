// Command kata-agent-ctl calls the agent of a Kata guest by hand: every call of
// its API, on one command line or interactively. docs/agent-ctl.md shows how.
package main

import (
	"context"
	"os"

	"kata/cli/agentctl"
	"kata/host/version"
)

func main() {
	program := agentctl.Program{Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr, Version: version.Version}
	os.Exit(program.Run(context.Background(), os.Args[1:]))
}
