package vmmtest

import (
	"testing"

	"kata/host/vmm"
)

// power is one of the interfaces beside [vmm.Machine], and what proves it.
type power struct {
	name string
	has  func(vmm.Machine) bool
	test func(*testing.T, *Suite)
}

func has[P any](m vmm.Machine) bool {
	_, ok := m.(P)
	return ok
}

var powers = []power{
	{"block", has[vmm.BlockPlugger], testBlock},
	{"block resize", has[vmm.BlockResizer], testBlockResize},
	{"network", has[vmm.NetworkPlugger], testNetwork},
	{"file share", has[vmm.SharePlugger], testShare},
	{"vsock", has[vmm.VsockPlugger], testVsock},
	{"vCPU", has[vmm.VCPUResizer], testVCPUs},
	{"memory", has[vmm.MemoryResizer], testMemory},
	{"pause", has[vmm.Pauser], testPause},
	{"snapshot", has[vmm.Snapshotter], testSnapshot},
}

// Powers names the powers of a driver, in a fixed order: the suite has a test for
// each.
func Powers(m vmm.Machine) []string {
	var names []string
	for _, p := range powers {
		if p.has(m) {
			names = append(names, p.name)
		}
	}
	return names
}

// runPowers tries what the driver's machines can do while a guest runs.
func runPowers(t *testing.T, s *Suite) {
	m := s.Machine(t, s.Spec(t))
	for _, p := range powers {
		if p.has(m) {
			t.Run(p.name, func(t *testing.T) { p.test(t, s) })
		}
	}
}
