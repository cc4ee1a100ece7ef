package vhostuser

import (
	"os"
	"testing"

	"kata/test/leaktest"
)

// TestMain fails if a test leaves goroutines, descriptors or mappings of guest
// memory behind.
func TestMain(m *testing.M) {
	if how := os.Getenv(vmmEnv); how != "" {
		actAsVMM(how)
		return
	}
	os.Exit(leaktest.Run(m, "kata/host/", "memfd:guest"))
}
