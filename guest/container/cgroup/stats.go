package cgroup

import (
	"math"
	"strconv"
	"strings"

	"kata/api/agentpb"
)

// Stats reads the group's statistics, those of the groups below included. What
// the kernel does not count is zero; a memory limit of "none" is the largest
// number. Times are in nanoseconds, memory in bytes.
func (g *Group) Stats() (*agentpb.CgroupStats, error) {
	// cpu.stat is there whatever controllers are; if it is not, the group is
	// gone.
	text, err := g.read("cpu.stat")
	if err != nil {
		return nil, err
	}
	cpu := cpuStats(parseFlat(text))
	cpu.Pressure = parsePressure(g.text("cpu.pressure"))
	pids := &agentpb.PidsStats{Current: g.counter("pids.current"), Limit: g.counter("pids.max")}
	if pids.Limit == math.MaxUint64 {
		pids.Limit = 0
	}
	return &agentpb.CgroupStats{
		CpuStats:     cpu,
		MemoryStats:  g.memoryStats(),
		PidsStats:    pids,
		BlkioStats:   ioStats(g.text("io.stat")),
		HugetlbStats: g.hugetlbStats(),
	}, nil
}

func cpuStats(stat map[string]uint64) *agentpb.CpuStats {
	const microsecond = 1000
	return &agentpb.CpuStats{
		CpuUsage: &agentpb.CpuUsage{
			TotalUsage:        stat["usage_usec"] * microsecond,
			UsageInKernelmode: stat["system_usec"] * microsecond,
			UsageInUsermode:   stat["user_usec"] * microsecond,
		},
		ThrottlingData: &agentpb.ThrottlingData{
			Periods:          stat["nr_periods"],
			ThrottledPeriods: stat["nr_throttled"],
			ThrottledTime:    stat["throttled_usec"] * microsecond,
		},
	}
}

func (g *Group) memoryStats() *agentpb.MemoryStats {
	stat := parseFlat(g.text("memory.stat"))
	events := parseFlat(g.text("memory.events"))
	return &agentpb.MemoryStats{
		Cache: stat["file"],
		Usage: &agentpb.MemoryData{
			Usage:    g.counter("memory.current"),
			MaxUsage: g.counter("memory.peak"),
			Failcnt:  events["max"],
			Limit:    g.counter("memory.max"),
		},
		SwapUsage: &agentpb.MemoryData{
			Usage:    g.counter("memory.swap.current"),
			MaxUsage: g.counter("memory.swap.peak"),
			Failcnt:  parseFlat(g.text("memory.swap.events"))["fail"],
			Limit:    g.counter("memory.swap.max"),
		},
		KernelUsage:  &agentpb.MemoryData{Usage: stat["kernel"]},
		UseHierarchy: true,
		Stats:        stat,
		Events:       events,
		Pressure:     parsePressure(g.text("memory.pressure")),
	}
}

// ioStats translates io.stat, lines such as "8:0 rbytes=1 wbytes=2 rios=3".
func ioStats(text string) *agentpb.BlkioStats {
	stats := &agentpb.BlkioStats{}
	columns := map[string]struct {
		op   string
		list *[]*agentpb.BlkioStatsEntry
	}{
		"rbytes": {"Read", &stats.IoServiceBytesRecursive},
		"wbytes": {"Write", &stats.IoServiceBytesRecursive},
		"dbytes": {"Discard", &stats.IoServiceBytesRecursive},
		"rios":   {"Read", &stats.IoServicedRecursive},
		"wios":   {"Write", &stats.IoServicedRecursive},
		"dios":   {"Discard", &stats.IoServicedRecursive},
	}
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) == 0 {
			continue
		}
		first, second, _ := strings.Cut(fields[0], ":")
		major, errMajor := strconv.ParseUint(first, 10, 32)
		minor, errMinor := strconv.ParseUint(second, 10, 32)
		if errMajor != nil || errMinor != nil {
			continue
		}
		for _, field := range fields[1:] {
			key, number, _ := strings.Cut(field, "=")
			value, err := strconv.ParseUint(number, 10, 64)
			if column, ok := columns[key]; ok && err == nil {
				*column.list = append(*column.list, &agentpb.BlkioStatsEntry{Major: major, Minor: minor, Op: column.op, Value: value})
			}
		}
	}
	return stats
}

// parsePressure reads a file such as memory.pressure, lines of
// "some avg10=0.12 avg60=0.00 avg300=0.00 total=34". Nothing gives nil.
func parsePressure(text string) *agentpb.PressureStats {
	if text == "" {
		return nil
	}
	stats := &agentpb.PressureStats{}
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) == 0 {
			continue
		}
		values := &agentpb.PressureLine{}
		for _, field := range fields[1:] {
			key, number, _ := strings.Cut(field, "=")
			// Averages have two decimals: without the point they are hundredths.
			n, err := strconv.ParseUint(strings.Replace(number, ".", "", 1), 10, 64)
			if err != nil {
				continue
			}
			switch key {
			case "avg10":
				values.Avg10 = uint32(n)
			case "avg60":
				values.Avg60 = uint32(n)
			case "avg300":
				values.Avg300 = uint32(n)
			case "total":
				values.Total = n
			}
		}
		switch fields[0] {
		case "some":
			stats.Some = values
		case "full":
			stats.Full = values
		}
	}
	return stats
}

// hugetlbStats has an entry for each page size, named as in the file names.
func (g *Group) hugetlbStats() map[string]*agentpb.HugetlbStats {
	stats := make(map[string]*agentpb.HugetlbStats)
	var files []string
	err := g.dir.Use(func(dir int) (err error) {
		files, err = list(dir)
		return err
	})
	if err != nil {
		return stats
	}
	for _, file := range files {
		size, ok := strings.CutPrefix(file, "hugetlb.")
		if size, ok2 := strings.CutSuffix(size, ".current"); ok && ok2 && !strings.Contains(size, ".") {
			stats[size] = &agentpb.HugetlbStats{
				Usage:   g.counter(file),
				Failcnt: parseFlat(g.text("hugetlb." + size + ".events"))["max"],
			}
		}
	}
	return stats
}

// text is the content of a file, or nothing where the kernel does not have it.
func (g *Group) text(file string) string {
	text, err := g.read(file)
	if err != nil {
		return ""
	}
	return text
}

// counter is the number in a file, the largest number for "max", or zero where
// the kernel does not have the file.
func (g *Group) counter(file string) uint64 {
	text := strings.TrimSpace(g.text(file))
	if text == "max" {
		return math.MaxUint64
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		return 0
	}
	return n
}

// parseFlat reads lines of "key number".
func parseFlat(text string) map[string]uint64 {
	stat := make(map[string]uint64)
	for line := range strings.Lines(text) {
		key, number, _ := strings.Cut(strings.TrimSpace(line), " ")
		if n, err := strconv.ParseUint(number, 10, 64); err == nil {
			stat[key] = n
		}
	}
	return stat
}
