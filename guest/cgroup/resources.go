package cgroup

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"kata/api/ocipb"
)

// setting is one value to write to one file of a group.
type setting struct {
	file, value string
	// optional values are left out where the kernel does not have the file.
	optional bool
}

// Apply sets the limits that r gives and leaves the others as they are; it
// serves for the first limits and for updates. Device rules, if there are any,
// replace those before. The first value that the kernel refuses ends it, and
// the error names the file and the value.
func (g *Group) Apply(r *ocipb.LinuxResources) error {
	if r == nil {
		return nil
	}
	settings, err := g.settings(r)
	if err != nil {
		return err
	}
	for _, s := range settings {
		err := write(g.dir, s.file, s.value)
		if errors.Is(err, unix.ENOENT) {
			if s.optional {
				continue
			}
			controller, _, _ := strings.Cut(s.file, ".")
			err = fmt.Errorf("%s: this kernel has no such limit for the %s controller", s.file, controller)
		}
		if err != nil {
			return err
		}
	}
	if len(r.Devices) > 0 {
		return g.devices.apply(g.dir, r.Devices)
	}
	return nil
}

// settings translates OCI limits to what is to be written, in order.
func (g *Group) settings(r *ocipb.LinuxResources) ([]setting, error) {
	var all []setting
	memory, err := memorySettings(r.Memory)
	if err != nil {
		return nil, err
	}
	if m := r.Memory; m.GetCheckBeforeUpdate() && m.Limit > 0 {
		if used := g.counter("memory.current"); used > uint64(m.Limit) {
			return nil, fmt.Errorf("memory limit %d is below the %d bytes in use", m.Limit, used)
		}
	}
	all = append(all, memory...)
	all = append(all, cpuSettings(r.CPU)...)
	if r.Pids != nil {
		all = append(all, setting{file: "pids.max", value: limit(r.Pids.Limit)})
	}
	bfq := unix.Faccessat(g.dir, "io.bfq.weight", unix.F_OK, 0) == nil
	all = append(all, ioSettings(r.BlockIO, bfq)...)
	for _, h := range r.HugepageLimits {
		file, value := "hugetlb."+h.Pagesize, strconv.FormatUint(h.Limit, 10)
		if !validPageSize(h.Pagesize) {
			return nil, fmt.Errorf("huge page size %q is not a number of KB, MB or GB", h.Pagesize)
		}
		all = append(all, setting{file: file + ".max", value: value},
			setting{file: file + ".rsvd.max", value: value, optional: true})
	}
	for _, device := range slices.Sorted(maps.Keys(r.Rdma)) {
		all = append(all, setting{file: "rdma.max", value: rdmaLimit(device, r.Rdma[device])})
	}
	unified, err := unifiedSettings(r.Unified)
	return append(all, unified...), err
}

// limit is n, or "max" for the numbers that mean none.
func limit(n int64) string {
	if n <= 0 {
		return "max"
	}
	return strconv.FormatInt(n, 10)
}

// memorySettings translates memory limits. OCI's swap is memory and swap
// together, the kernel's is swap alone.
func memorySettings(m *ocipb.LinuxMemory) ([]setting, error) {
	if m == nil {
		return nil, nil
	}
	var all []setting
	if m.Swap != 0 {
		swap := "max"
		switch {
		case m.Swap < 0:
		case m.Limit == 0:
			return nil, fmt.Errorf("swap limit %d without a memory limit", m.Swap)
		case m.Limit < 0:
			return nil, fmt.Errorf("swap limit %d with unlimited memory", m.Swap)
		case m.Swap < m.Limit:
			return nil, fmt.Errorf("swap limit %d, which includes memory, is below the memory limit %d", m.Swap, m.Limit)
		default:
			swap = strconv.FormatInt(m.Swap-m.Limit, 10)
		}
		// Without swap in the kernel there is none to limit.
		all = append(all, setting{file: "memory.swap.max", value: swap, optional: true})
	}
	if m.Limit != 0 {
		all = append(all, setting{file: "memory.max", value: limit(m.Limit)})
	}
	if m.Reservation != 0 {
		all = append(all, setting{file: "memory.low", value: limit(m.Reservation)})
	}
	return all, nil
}

const defaultPeriod = 100000 // microseconds; the kernel's and OCI's default

func cpuSettings(c *ocipb.LinuxCPU) []setting {
	if c == nil {
		return nil
	}
	var all []setting
	if c.Idle != nil {
		all = append(all, setting{file: "cpu.idle", value: strconv.FormatInt(*c.Idle, 10)})
	}
	// The kernel refuses a weight for an idle group.
	if c.Shares != 0 && (c.Idle == nil || *c.Idle == 0) {
		all = append(all, setting{file: "cpu.weight", value: strconv.FormatUint(weight(c.Shares), 10)})
	}
	if c.Quota != 0 || c.Period != 0 {
		period := c.Period
		if period == 0 {
			period = defaultPeriod
		}
		all = append(all, setting{file: "cpu.max", value: limit(c.Quota) + " " + strconv.FormatUint(period, 10)})
	}
	if c.Burst != nil {
		all = append(all, setting{file: "cpu.max.burst", value: strconv.FormatUint(*c.Burst, 10)})
	}
	if c.Cpus != "" {
		all = append(all, setting{file: "cpuset.cpus", value: c.Cpus})
	}
	if c.Mems != "" {
		all = append(all, setting{file: "cpuset.mems", value: c.Mems})
	}
	return all
}

// weight maps cgroup v1's shares, 2 to 262144, onto the weights of v2, 1 to
// 10000, linearly, as runc 1.1 and upstream's agent do.
func weight(shares uint64) uint64 {
	shares = min(max(shares, 2), 262144)
	return 1 + (shares-2)*9999/262142
}

// ioWeight maps OCI's weights, 10 to 1000, onto io.weight's, 1 to 10000.
func ioWeight(w uint32) uint64 {
	w = min(max(w, 10), 1000)
	return 1 + (uint64(w)-10)*9999/990
}

func ioSettings(b *ocipb.LinuxBlockIO, bfq bool) []setting {
	if b == nil {
		return nil
	}
	file, value := "io.weight", func(w uint32) string { return strconv.FormatUint(ioWeight(w), 10) }
	if bfq {
		file, value = "io.bfq.weight", func(w uint32) string { return strconv.FormatUint(uint64(w), 10) }
	}
	var all []setting
	if b.Weight != 0 {
		all = append(all, setting{file: file, value: "default " + value(b.Weight)})
	}
	for _, d := range b.WeightDevice {
		if d.Weight != 0 {
			all = append(all, setting{file: file, value: device(d.Major, d.Minor) + " " + value(d.Weight)})
		}
	}
	for _, t := range []struct {
		key     string
		devices []*ocipb.LinuxThrottleDevice
	}{
		{"rbps", b.ThrottleReadBpsDevice},
		{"wbps", b.ThrottleWriteBpsDevice},
		{"riops", b.ThrottleReadIOPSDevice},
		{"wiops", b.ThrottleWriteIOPSDevice},
	} {
		for _, d := range t.devices {
			rate := "max" // OCI's zero takes a limit away
			if d.Rate != 0 {
				rate = strconv.FormatUint(d.Rate, 10)
			}
			all = append(all, setting{file: "io.max", value: device(d.Major, d.Minor) + " " + t.key + "=" + rate})
		}
	}
	return all
}

func device(major, minor int64) string {
	return strconv.FormatInt(major, 10) + ":" + strconv.FormatInt(minor, 10)
}

func validPageSize(s string) bool {
	number := strings.TrimRight(s, "KMGB")
	_, err := strconv.ParseUint(number, 10, 32)
	unit := s[len(number):]
	return err == nil && (unit == "KB" || unit == "MB" || unit == "GB")
}

func rdmaLimit(device string, r *ocipb.LinuxRdma) string {
	number := func(n *uint32) string {
		if n == nil || *n == math.MaxUint32 {
			return "max"
		}
		return strconv.FormatUint(uint64(*n), 10)
	}
	if r == nil {
		r = &ocipb.LinuxRdma{}
	}
	return device + " hca_handle=" + number(r.HcaHandles) + " hca_object=" + number(r.HcaObjects)
}

// unifiedSettings are values by file name. Files of the core (cgroup.*) would
// move or stop processes; only their limits are allowed.
func unifiedSettings(unified map[string]string) ([]setting, error) {
	var all []setting
	for _, file := range slices.Sorted(maps.Keys(unified)) {
		core := strings.HasPrefix(file, "cgroup.") && !strings.HasPrefix(file, "cgroup.max.")
		if core || strings.Contains(file, "/") || !strings.Contains(file, ".") {
			return nil, fmt.Errorf("unified resource %q is not a file of a controller", file)
		}
		for line := range strings.Lines(unified[file]) {
			all = append(all, setting{file: file, value: strings.TrimSuffix(line, "\n")})
		}
	}
	return all, nil
}
