package runtime

import (
	"bufio"
	"context"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"kata/host/vmm"
)

type hostEnv struct {
	Kernel, Architecture string
	Distro               struct{ Name, Version string }
	CPU                  struct {
		Vendor, Model string
		CPUs          int
	}
	Memory struct{ Total, Free, Available uint64 } // KiB
	// VMContainerCapable says that pods run at hardware speed.
	VMContainerCapable bool
	// SupportVSocks: the vsock device is part of the shim.
	SupportVSocks bool
}

func describeHost(accelerator string) (hostEnv, error) {
	var h hostEnv
	var uts unix.Utsname
	if err := unix.Uname(&uts); err != nil {
		return h, err
	}
	h.Kernel = unix.ByteSliceToString(uts.Release[:])
	h.Architecture = runtime.GOARCH
	release := fields("/etc/os-release", "=")
	h.Distro.Name = strings.Trim(release["NAME"], `"`)
	h.Distro.Version = strings.Trim(release["VERSION_ID"], `"`)
	cpu := fields("/proc/cpuinfo", ":")
	h.CPU.Vendor, h.CPU.Model, h.CPU.CPUs = cpu["vendor_id"], cpu["model name"], runtime.NumCPU()
	memory := fields("/proc/meminfo", ":")
	for name, to := range map[string]*uint64{
		"MemTotal": &h.Memory.Total, "MemFree": &h.Memory.Free, "MemAvailable": &h.Memory.Available,
	} {
		number, _, _ := strings.Cut(memory[name], " ")
		n, err := strconv.ParseUint(number, 10, 64)
		if err != nil {
			return h, err
		}
		*to = n
	}
	h.VMContainerCapable = accelerator == vmm.AccelKVM
	h.SupportVSocks = true
	return h, nil
}

// fields reads a file of lines "name SEPARATOR value"; of a name that occurs
// again the first counts. A file that cannot be read has none.
func fields(path, separator string) map[string]string {
	out := map[string]string{}
	f, err := os.Open(path)
	if err != nil {
		return out
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		name, value, ok := strings.Cut(lines.Text(), separator)
		name = strings.TrimSpace(name)
		if _, seen := out[name]; ok && !seen {
			out[name] = strings.TrimSpace(value)
		}
	}
	return out
}

// programVersion returns the first line that the program prints for --version,
// or "" when it cannot be run.
func programVersion(ctx context.Context, path string) string {
	if path == "" {
		return ""
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, path, "--version").Output()
	if err != nil {
		return ""
	}
	line, _, _ := strings.Cut(string(out), "\n")
	return line
}
