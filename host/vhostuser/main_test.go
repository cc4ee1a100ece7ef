package vhostuser

import (
	"os"
	"testing"

	"kata/test/leaktest"
)

// TestMain fails if a test leaves goroutines, descriptors or mappings of guest
// memory behind.
func TestMain(m *testing.M) { os.Exit(leaktest.Run(m, "kata/host/", "memfd:guest")) }
