package agent

import (
	"bytes"
	"context"
	"errors"
	"os"
	"sort"
	"strconv"
	"strings"

	"kata/api/agentpb"
	"kata/guest/sandbox"
	"kata/lib/fmt"
)

// ticks is the unit of times in /proc (USER_HZ), the same on every x86 and arm64
// kernel.
const ticks = 100

// listProcesses answers the container's processes by their guest numbers: as a
// JSON array of numbers, or as the table of ps -ef. It exists for upstream's
// tools of 2.0.0.
func (s *Service) listProcesses(ctx context.Context, req *agentpb.ListProcessesRequest) (*agentpb.ListProcessesResponse, error) {
	c, err := s.container(req.ContainerId)
	if err != nil {
		return nil, err
	}
	if req.Format != "json" && req.Format != "table" && req.Format != "" {
		return nil, invalid("format", req.Format, "is neither json nor table")
	}
	for _, arg := range req.Args {
		if arg != "-ef" && arg != "-e" && arg != "-f" {
			return nil, invalid("args", arg, "is not possible: the table is that of ps -ef")
		}
	}
	var pids []int
	err = c.With(ctx, func(_ context.Context, r sandbox.Instance) (err error) {
		pids, err = r.Pids()
		return err
	})
	if err != nil {
		return nil, err
	}
	sort.Stable(sort.IntSlice(pids))
	if req.Format == "json" {
		return &agentpb.ListProcessesResponse{ProcessList: jsonNumbers(pids)}, nil
	}
	var table bytes.Buffer
	fmt.Fprintf(&table, "%-8s %7s %7s %-8s %8s %s\n", "UID", "PID", "PPID", "TTY", "TIME", "CMD")
	for _, pid := range pids {
		p, err := readProcess("/proc/" + strconv.Itoa(pid))
		if err != nil {
			continue // it has ended meanwhile
		}
		seconds := p.time / ticks
		fmt.Fprintf(&table, "%-8d %7d %7d %-8s %02d:%02d:%02d %s\n",
			p.uid, pid, p.ppid, p.tty, seconds/3600, seconds/60%60, seconds%60, p.command)
	}
	return &agentpb.ListProcessesResponse{ProcessList: table.Bytes()}, nil
}

func jsonNumbers(numbers []int) []byte {
	list := []byte{'['}
	for i, n := range numbers {
		if i > 0 {
			list = append(list, ',')
		}
		list = strconv.AppendInt(list, int64(n), 10)
	}
	return append(list, ']')
}

// processInfo is what the table says of a process.
type processInfo struct {
	uid     uint64
	ppid    uint64
	tty     string
	time    uint64 // processor time in ticks
	command string
}

// readProcess reads dir, a process's directory in /proc (proc(5)).
func readProcess(dir string) (processInfo, error) {
	stat, statErr := os.ReadFile(dir + "/stat")
	status, statusErr := os.ReadFile(dir + "/status")
	command, cmdErr := os.ReadFile(dir + "/cmdline")
	if err := errors.Join(statErr, statusErr, cmdErr); err != nil {
		return processInfo{}, err
	}
	p, err := parseStat(string(stat))
	if err != nil {
		return processInfo{}, fmt.Errorf("%s/stat: %w", dir, err)
	}
	for line := range strings.Lines(string(status)) {
		if rest, ok := strings.CutPrefix(line, "Uid:"); ok {
			p.uid, _ = strconv.ParseUint(strings.Fields(rest + " 0")[0], 10, 32)
		}
	}
	if words := strings.TrimRight(string(command), "\x00"); words != "" {
		p.command = printable(strings.ReplaceAll(words, "\x00", " "))
	}
	return p, nil
}

// parseStat parses the line of a stat file. The second field, the name, is in
// parentheses and may contain anything.
func parseStat(line string) (processInfo, error) {
	open, end := strings.IndexByte(line, '('), strings.LastIndexByte(line, ')')
	if open < 0 || end < open {
		return processInfo{}, errors.New("no name in parentheses")
	}
	// fields[0] is field 3 of proc(5).
	fields := strings.Fields(line[end+1:])
	if len(fields) < 13 {
		return processInfo{}, errors.New("too few fields")
	}
	p := processInfo{tty: "?", command: "[" + printable(line[open+1:end]) + "]"}
	p.ppid, _ = strconv.ParseUint(fields[1], 10, 32)
	if device, _ := strconv.ParseUint(fields[4], 10, 32); device>>8&0xfff >= 136 && device>>8&0xfff < 144 {
		minor := device&0xff | device>>12&0xfff00
		p.tty = fmt.Sprintf("pts/%d", (device>>8&0xfff-136)<<20|minor)
	}
	user, _ := strconv.ParseUint(fields[11], 10, 64)
	system, _ := strconv.ParseUint(fields[12], 10, 64)
	p.time = user + system
	return p, nil
}

// printable replaces what could garble a terminal.
func printable(text string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return '?'
		}
		return r
	}, text)
}
