package cgroup

import (
	"strings"

	"kata/api/ocipb"
	"kata/lib/fmt"
)

// Validate checks what can be checked of limits without a group. The error
// names the field, below "linux.resources", and its value.
func Validate(r *ocipb.LinuxResources) error {
	if r == nil {
		return nil
	}
	for i, d := range r.Devices {
		if d == nil {
			return fmt.Errorf("devices[%d] is missing", i)
		}
		if _, err := parseRule(d); err != nil {
			return fmt.Errorf("devices[%d]: %v", i, err)
		}
	}
	if err := validateMemory(r.Memory); err != nil {
		return err
	}
	if err := validateCPU(r.CPU); err != nil {
		return err
	}
	if err := validateIO(r.BlockIO); err != nil {
		return err
	}
	const mostPids = 1 << 22 // PID_MAX_LIMIT, include/linux/threads.h
	if n := r.Pids.GetLimit(); n < -1 {
		return fmt.Errorf("pids.limit %d is negative", n)
	} else if n > mostPids {
		return fmt.Errorf("pids.limit %d is more than %d", n, mostPids)
	}
	for i, h := range r.HugepageLimits {
		if h == nil || !validPageSize(h.Pagesize) {
			return fmt.Errorf("hugepageLimits[%d]: page size %q is not a number of KB, MB or GB", i, h.GetPagesize())
		}
	}
	for device := range r.Rdma {
		if device == "" || strings.ContainsAny(device, " \t\n\x00") {
			return fmt.Errorf("rdma: %q is not the name of a device", device)
		}
	}
	_, err := unifiedSettings(r.Unified)
	return err
}

func validateMemory(m *ocipb.LinuxMemory) error {
	for _, f := range [...]struct {
		field string
		value int64
	}{{"limit", m.GetLimit()}, {"reservation", m.GetReservation()}, {"swap", m.GetSwap()}} {
		if f.value < -1 {
			return fmt.Errorf("memory.%s %d is negative", f.field, f.value)
		}
	}
	if m.GetSwap() > 0 && m.Limit != 0 {
		_, err := swapAlone(m.Swap, m.Limit)
		return err
	}
	return nil
}

func validateCPU(c *ocipb.LinuxCPU) error {
	if c == nil {
		return nil
	}
	// kernel/sched/core.c, tg_set_cfs_bandwidth: microseconds.
	const least, mostPeriod, mostQuota = 1000, 1000000, 1<<44 - 1
	if c.Quota < -1 {
		return fmt.Errorf("cpu.quota %d is negative", c.Quota)
	}
	if c.Quota > 0 && c.Quota < least || c.Quota > mostQuota {
		return fmt.Errorf("cpu.quota %d is not between %d and %d", c.Quota, least, mostQuota)
	}
	if c.Period != 0 && (c.Period < least || c.Period > mostPeriod) {
		return fmt.Errorf("cpu.period %d is not between %d and %d", c.Period, least, mostPeriod)
	}
	if c.Burst != nil && c.Quota > 0 && *c.Burst > uint64(c.Quota) {
		return fmt.Errorf("cpu.burst %d exceeds the quota %d", *c.Burst, c.Quota)
	}
	if c.Idle != nil && *c.Idle != 0 && *c.Idle != 1 {
		return fmt.Errorf("cpu.idle %d is neither 0 nor 1", *c.Idle)
	}
	for _, list := range [...]struct{ field, value string }{{"cpus", c.Cpus}, {"mems", c.Mems}} {
		if strings.Trim(list.value, "0123456789-, ") != "" {
			return fmt.Errorf("cpu.%s %q is not a list of numbers and ranges", list.field, list.value)
		}
	}
	return nil
}

func validateIO(b *ocipb.LinuxBlockIO) error {
	if b == nil {
		return nil
	}
	const least, most = 10, 1000
	if w := b.Weight; w != 0 && (w < least || w > most) {
		return fmt.Errorf("blockIO.weight %d is not between %d and %d", w, least, most)
	}
	for i, d := range b.WeightDevice {
		if d == nil || d.Weight != 0 && (d.Weight < least || d.Weight > most) {
			return fmt.Errorf("blockIO.weightDevice[%d]: weight %d is not between %d and %d", i, d.GetWeight(), least, most)
		}
		if d.Major < 0 || d.Minor < 0 {
			return fmt.Errorf("blockIO.weightDevice[%d]: device %d:%d is not possible", i, d.Major, d.Minor)
		}
	}
	for _, t := range throttles(b) {
		for i, d := range t.devices {
			if d == nil || d.Major < 0 || d.Minor < 0 {
				return fmt.Errorf("blockIO.%s[%d]: device %d:%d is not possible", t.field, i, d.GetMajor(), d.GetMinor())
			}
		}
	}
	return nil
}
