// Command cleanrun removes what tests and demos have left that died before
// they could clean up: their containerd, its shims and VMs, mounts and
// directories. It touches nothing of runs that are alive, and nothing that
// these tests have not started.
package main

import (
	"fmt"
	"os"

	"kata/test/harness"
)

func main() {
	cleaned, err := harness.CleanUp()
	for _, dir := range cleaned {
		fmt.Println("removed what was left of", dir)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "cleanrun:", err)
		os.Exit(1)
	}
	if len(cleaned) == 0 {
		fmt.Println("nothing was left")
	}
}
