package metrics

import (
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// ticks is how many units of time /proc has in a second: USER_HZ, which is 100 on
// every architecture we know.
const ticks = 100

// seconds is a time in ticks as a decimal number.
func seconds(n uint64) string {
	text := strconv.FormatUint(n/ticks, 10)
	if rest := n % ticks; rest != 0 {
		text += "." + strconv.FormatUint(ticks+rest, 10)[1:]
	}
	return text
}

// Fields of /proc/self/stat behind the name of the program (proc(5)); that may
// hold anything, spaces and parentheses too.
const (
	fieldUtime    = 14 - 3
	fieldStime    = 15 - 3
	fieldThreads  = 20 - 3
	fieldStart    = 22 - 3
	fieldSize     = 23 - 3
	fieldResident = 24 - 3
)

// agent writes what concerns the agent's process.
func (p *page) agent() {
	text := p.file("self/stat")
	stat := strings.Fields(text[strings.LastIndexByte(text, ')')+1:])
	if len(stat) > fieldResident {
		p.process(stat)
	}
	p.gauge("kata_agent_proc_status", "Agent process status, amounts in kB")
	p.table("self/status", statusItems, statusKeys, 1)
	p.gauge("kata_agent_io_stat", "Agent process IO statistics")
	p.table("self/io", ioItems, ioItems, 1)
}

// process writes what /proc/self/stat tells, and what clients of Prometheus tell
// about every process, with the prefix that upstream's shim puts before it.
func (p *page) process(stat []string) {
	used := seconds(parse(stat[fieldUtime]) + parse(stat[fieldStime]))
	resident := strconv.FormatUint(parse(stat[fieldResident])*uint64(os.Getpagesize()), 10)
	size := stat[fieldSize]
	p.gauge("kata_agent_threads", "Agent process threads")
	p.sample("", stat[fieldThreads])
	p.gauge("kata_agent_total_time", "Agent process total time in seconds")
	p.sample("", used)
	p.gauge("kata_agent_total_vm", "Agent process total VM size in bytes")
	p.sample("", size)
	p.gauge("kata_agent_total_rss", "Agent process total RSS size in bytes")
	p.sample("", resident)
	p.gauge("kata_agent_proc_stat", "Agent process statistics in clock ticks")
	p.columns("utime stime cutime cstime", strings.Join(stat[fieldUtime:fieldUtime+4], " "))

	p.family("kata_agent_process_cpu_seconds_total", "counter", "Total user and system CPU time spent in seconds")
	p.sample("", used)
	p.gauge("kata_agent_process_virtual_memory_bytes", "Virtual memory size in bytes")
	p.sample("", size)
	p.gauge("kata_agent_process_resident_memory_bytes", "Resident memory size in bytes")
	p.sample("", resident)
	if _, since, ok := strings.Cut(p.file("stat"), "\nbtime "); ok {
		booted, _ := word(since)
		p.gauge("kata_agent_process_start_time_seconds", "Start time of the process since unix epoch in seconds")
		p.sample("", seconds(ticks*parse(booted)+parse(stat[fieldStart])))
	}
	var limit unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &limit) == nil {
		p.gauge("kata_agent_process_max_fds", "Maximum number of open file descriptors")
		p.number(limit.Cur)
	}
	// Without the one that lists them.
	if folder, err := os.Open(p.root + "/self/fd"); err == nil {
		if open, err := folder.Readdirnames(-1); err == nil {
			p.gauge("kata_agent_process_open_fds", "Number of open file descriptors")
			p.number(uint64(max(len(open)-1, 0)))
		}
		_ = folder.Close()
	}
}

const (
	statusItems = "vmpeak vmsize vmlck vmpin vmhwm vmrss rssanon rssfile rssshmem vmdata vmstk vmexe vmlib vmpte vmswap " +
		"hugetlbpages voluntary_ctxt_switches nonvoluntary_ctxt_switches"
	statusKeys = "VmPeak VmSize VmLck VmPin VmHWM VmRSS RssAnon RssFile RssShmem VmData VmStk VmExe VmLib VmPTE VmSwap " +
		"HugetlbPages voluntary_ctxt_switches nonvoluntary_ctxt_switches"
	ioItems = "rchar wchar syscr syscw read_bytes write_bytes cancelled_write_bytes"
)
