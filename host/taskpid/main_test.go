package taskpid

import (
	"os"
	"testing"

	"kata/test/leaktest"
)

func TestMain(m *testing.M) { os.Exit(leaktest.Run(m, "kata/host/taskpid.")) }
