package cgroup

import (
	"errors"
	"math"
	"slices"
	"sort"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"kata/api/ocipb"
	"kata/guest/fault"
	"kata/lib/fmt"
)

// setting is one value to write to one file of a group.
type setting struct {
	file, value string
	// asked is the value that value stands for, of a placement.
	asked string
	// field is what asked for it, below linux.resources.
	field string
	// optional values are left out where the kernel does not have the file.
	optional bool
	// early values come again: the kernel may refuse them (EINVAL) until what
	// is between has been written.
	early bool
}

// InvalidError is a limit that makes no sense here, or that the kernel refuses.
type InvalidError = fault.Error

// refused is the error of a setting that the kernel did not take.
func (s *setting) refused(err error) error {
	for _, errno := range [...]unix.Errno{unix.EINVAL, unix.ERANGE, unix.ENODEV, unix.ENXIO, unix.EOPNOTSUPP, unix.ENOENT} {
		if errors.Is(err, errno) {
			return &InvalidError{Kind: fault.Invalid, Field: "linux.resources." + s.field, Cause: err}
		}
	}
	return err
}

// Apply sets the limits that r gives and leaves the others as they are; it
// serves for the first limits and for updates. Device rules, if there are any,
// replace those before. If the kernel refuses a value nothing is changed, and
// the error names the file and the value.
func (g *Group) Apply(r *ocipb.LinuxResources) error {
	if r == nil {
		return nil
	}
	settings, err := g.settings(r)
	if err == nil {
		settings, err = g.fitAll(settings)
	}
	if err != nil {
		return err
	}
	var undo []setting
	for _, s := range settings {
		before := g.before(s)
		if err := g.set(s); err != nil {
			g.undo(undo)
			return s.refused(err)
		}
		undo = append(undo, before)
	}
	if len(r.Devices) > 0 {
		if err := g.dir.Use(func(dir int) error { return g.devices.apply(dir, r.Devices) }); err != nil {
			g.undo(undo)
			return err
		}
	}
	g.keep(settings)
	return nil
}

// Confine is Apply for the first limits of a group: without device rules it gets
// those that every container has, and no other device (runc's AllowedDevices, and
// deny for the rest).
func (g *Group) Confine(r *ocipb.LinuxResources) error {
	if err := g.Apply(r); err != nil || len(r.GetDevices()) > 0 {
		return err
	}
	return g.dir.Use(func(dir int) error { return g.devices.apply(dir, nil) })
}

// set writes one setting.
func (g *Group) set(s setting) error {
	err := g.write(s.file, s.value)
	switch {
	case errors.Is(err, unix.ENOENT) && s.optional, errors.Is(err, unix.EINVAL) && s.early:
		return nil
	case errors.Is(err, unix.ENOENT):
		controller, _, _ := strings.Cut(s.file, ".")
		return fmt.Errorf("%s: this kernel has no such limit for the %s controller (%w)", s.file, controller, unix.ENOENT)
	}
	return err
}

// defaultLines take a device's limits away, by the file's name up to its last
// dot.
var defaultLines = map[string]string{
	"io.weight": " default", "io.bfq.weight": " default", "rdma.max": " hca_handle=max hca_object=max",
	"io.max": " rbps=max wbps=max riops=max wiops=max",
}

// before returns the setting that takes s back.
func (g *Group) before(s setting) setting {
	text := strings.TrimSpace(g.text(s.file))
	if none, ok := defaultLines[s.file]; ok {
		device, _, _ := strings.Cut(s.value, " ")
		value := device + none
		for line := range strings.Lines(text) {
			if strings.HasPrefix(line, device+" ") {
				value = strings.TrimSpace(line)
			}
		}
		text = value
	}
	return setting{file: s.file, value: text + "\n"}
}

// undo takes settings back, the last first. Where the kernel does not have it
// so, as with a burst above a quota, the second time has all others done.
func (g *Group) undo(settings []setting) {
	slices.Reverse(settings)
	for range 2 {
		for _, s := range settings {
			_ = g.set(s) // there is an error already, which is why
		}
	}
}

// settings translates OCI limits to what is to be written, in order.
func (g *Group) settings(r *ocipb.LinuxResources) ([]setting, error) {
	var all []setting
	memory, err := g.memorySettings(r.Memory)
	if err != nil {
		return nil, err
	}
	if m := r.Memory; m.GetCheckBeforeUpdate() && m.Limit > 0 {
		if used := g.counter("memory.current"); used > uint64(m.Limit) {
			return nil, fmt.Errorf("memory limit %d is below the %d bytes in use", m.Limit, used)
		}
	}
	all = append(all, memory...)
	all = append(all, g.cpuSettings(r.CPU)...)
	if r.Pids != nil {
		all = append(all, setting{field: "pids.limit", file: "pids.max", value: limit(r.Pids.Limit)})
	}
	bfq := g.dir.Use(func(dir int) error { return unix.Faccessat(dir, "io.bfq.weight", unix.F_OK, 0) }) == nil
	all = append(all, ioSettings(r.BlockIO, bfq)...)
	for _, h := range r.HugepageLimits {
		file, value := "hugetlb."+h.Pagesize, strconv.FormatUint(h.Limit, 10)
		if !validPageSize(h.Pagesize) {
			return nil, fmt.Errorf("huge page size %q is not a number of KB, MB or GB", h.Pagesize)
		}
		all = append(all, setting{field: "hugepageLimits " + h.Pagesize, file: file + ".max", value: value},
			setting{file: file + ".rsvd.max", value: value, optional: true})
	}
	for _, device := range sortedKeys(r.Rdma) {
		all = append(all, setting{field: "rdma " + device, file: "rdma.max", value: rdmaLimit(device, r.Rdma[device])})
	}
	unified, err := unifiedSettings(r.Unified)
	return append(all, unified...), err
}

// sortedKeys returns the keys of m in order. (Package sort has one body for all
// types; that of slices is linked for each.)
func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for key := range m {
		keys = append(keys, key)
	}
	sort.Stable(sort.StringSlice(keys))
	return keys
}

// limit is n, or "max" for the numbers that mean none.
func limit(n int64) string {
	if n <= 0 {
		return "max"
	}
	return strconv.FormatInt(n, 10)
}

// memorySettings translates memory limits. OCI's swap is memory and swap
// together, the kernel's is swap alone. Swap without a limit goes with the limit
// in force; memory without a limit takes that of swap away, as runc does.
func (g *Group) memorySettings(m *ocipb.LinuxMemory) ([]setting, error) {
	if m == nil {
		return nil, nil
	}
	var all []setting
	swap := ""
	switch {
	case m.Swap > 0:
		limit := m.Limit
		if current := g.counter("memory.max"); limit == 0 && current <= math.MaxInt64 {
			limit = int64(current)
		}
		alone, err := swapAlone(m.Swap, limit)
		if err != nil {
			return nil, err
		}
		swap = strconv.FormatInt(alone, 10)
	case m.Swap < 0, m.Limit < 0:
		swap = "max"
	}
	if swap != "" {
		// Without swap in the kernel there is none to limit.
		all = append(all, setting{field: "memory.swap", file: "memory.swap.max", value: swap, optional: swap == "max" || swap == "0"})
	}
	if m.Limit != 0 {
		all = append(all, setting{field: "memory.limit", file: "memory.max", value: limit(m.Limit)})
	}
	if m.Reservation != 0 {
		all = append(all, setting{field: "memory.reservation", file: "memory.low", value: limit(m.Reservation)})
	}
	return all, nil
}

// swapAlone is how much swap there may be if memory and swap together are
// limited.
func swapAlone(swap, limit int64) (int64, error) {
	switch {
	case limit == 0:
		return 0, fmt.Errorf("memory.swap %d without a memory limit", swap)
	case limit < 0:
		return 0, fmt.Errorf("memory.swap %d with unlimited memory", swap)
	case swap < limit:
		return 0, fmt.Errorf("memory.swap %d, which includes memory, is below the memory limit %d", swap, limit)
	}
	return swap - limit, nil
}

const defaultPeriod = 100000 // microseconds; the kernel's and OCI's default

func (g *Group) cpuSettings(c *ocipb.LinuxCPU) []setting {
	if c == nil {
		return nil
	}
	var all []setting
	if c.Idle != nil {
		all = append(all, setting{field: "cpu.idle", file: "cpu.idle", value: strconv.FormatInt(*c.Idle, 10)})
	}
	// The kernel refuses a weight for an idle group.
	if c.Shares != 0 && (c.Idle == nil || *c.Idle == 0) {
		all = append(all, setting{field: "cpu.shares", file: "cpu.weight", value: strconv.FormatUint(weight(c.Shares), 10)})
	}
	bandwidth := c.Quota != 0 || c.Period != 0
	if c.Burst != nil && bandwidth {
		// A burst may not exceed the quota: one that falls comes first.
		all = append(all, setting{field: "cpu.burst", file: "cpu.max.burst", value: strconv.FormatUint(*c.Burst, 10), early: true})
	}
	if bandwidth {
		all = append(all, setting{field: "cpu.quota and period", file: "cpu.max", value: g.bandwidth(c.Quota, c.Period)})
	}
	if c.Burst != nil {
		all = append(all, setting{field: "cpu.burst", file: "cpu.max.burst", value: strconv.FormatUint(*c.Burst, 10)})
	}
	if c.Cpus != "" {
		all = append(all, setting{field: "cpu.cpus", file: "cpuset.cpus", value: c.Cpus})
	}
	if c.Mems != "" {
		all = append(all, setting{field: "cpu.mems", file: "cpuset.mems", value: c.Mems})
	}
	return all
}

// bandwidth is a value for cpu.max. What is not given stays.
func (g *Group) bandwidth(quota int64, period uint64) string {
	nowQuota, nowPeriod, _ := strings.Cut(strings.TrimSpace(g.text("cpu.max")), " ")
	if quota != 0 || nowQuota == "" {
		nowQuota = limit(quota)
	}
	if period != 0 {
		nowPeriod = strconv.FormatUint(period, 10)
	} else if nowPeriod == "" {
		nowPeriod = strconv.Itoa(defaultPeriod)
	}
	return nowQuota + " " + nowPeriod
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
		all = append(all, setting{field: "blockIO.weight", file: file, value: "default " + value(b.Weight)})
	}
	for _, d := range b.WeightDevice {
		if d.Weight != 0 {
			all = append(all, setting{field: "blockIO.weightDevice", file: file, value: device(d.Major, d.Minor) + " " + value(d.Weight)})
		}
	}
	for _, t := range throttles(b) {
		for _, d := range t.devices {
			rate := "max" // OCI's zero takes a limit away
			if d.Rate != 0 {
				rate = strconv.FormatUint(d.Rate, 10)
			}
			all = append(all, setting{field: "blockIO." + t.field, file: "io.max", value: device(d.Major, d.Minor) + " " + t.key + "=" + rate})
		}
	}
	return all
}

type throttle struct {
	key, field string
	devices    []*ocipb.LinuxThrottleDevice
}

func throttles(b *ocipb.LinuxBlockIO) [4]throttle {
	return [...]throttle{
		{"rbps", "throttleReadBpsDevice", b.ThrottleReadBpsDevice},
		{"wbps", "throttleWriteBpsDevice", b.ThrottleWriteBpsDevice},
		{"riops", "throttleReadIOPSDevice", b.ThrottleReadIOPSDevice},
		{"wiops", "throttleWriteIOPSDevice", b.ThrottleWriteIOPSDevice},
	}
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
	for _, file := range sortedKeys(unified) {
		core := strings.HasPrefix(file, "cgroup.") && !strings.HasPrefix(file, "cgroup.max.")
		if core || strings.Contains(file, "/") || !strings.Contains(file, ".") {
			return nil, fmt.Errorf("unified resource %q is not a file of a controller", file)
		}
		for line := range strings.Lines(unified[file]) {
			all = append(all, setting{field: "unified " + file, file: file, value: strings.TrimSuffix(line, "\n")})
		}
	}
	return all, nil
}
