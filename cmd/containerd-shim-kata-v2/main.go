// Command containerd-shim-kata-v2 runs containerd's containers and pods in
// virtual machines of their own. containerd calls it; nobody else needs to.
package main

import (
	"context"
	"fmt"
	"os"

	"kata/host/shim"
	"kata/host/shim/bootstrap"
	"kata/host/untrusted"
	"kata/host/version"
)

func main() {
	program := shim.New(bootstrap.Build{Version: version.Version, Commit: version.Commit()})
	if err := program.Run(context.Background(), os.Args[1:]); err != nil {
		// No line break: containerd puts the text into the middle of its own error.
		fmt.Fprint(os.Stderr, "containerd-shim-kata-v2: "+untrusted.Line(err.Error(), untrusted.MaxLine))
		os.Exit(1)
	}
}
