package config

import (
	"runtime"

	"golang.org/x/sys/unix"
)

// Host is what the values of a file are measured against.
type Host struct {
	CPUs      int    // CPUs this process may use
	MemoryMiB uint64 // physical memory; 0 when unknown, then it is no limit
}

// ThisHost returns the facts of the machine it runs on.
func ThisHost() Host {
	h := Host{CPUs: runtime.NumCPU()}
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err == nil {
		h.MemoryMiB = uint64(info.Totalram) * uint64(info.Unit) >> 20
	}
	return h
}

func (h Host) vcpuCeiling() int {
	return max(1, min(h.CPUs, MaxVCPUs))
}
