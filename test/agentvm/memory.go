package agentvm

import (
	"bufio"
	"fmt"
	"strconv"
	"strings"

	"kata/api/ocipb"
)

// Memory is what the guest's kernel says of the agent, in bytes.
type Memory struct {
	Resident  int64 // all that is mapped, the binary's pages included
	Anonymous int64
	Huge      int64 // of Anonymous, in huge pages
	Threads   int64
}

func (m Memory) String() string {
	return fmt.Sprintf("resident %d KiB, anonymous %d KiB, huge %d KiB, %d threads",
		m.Resident>>10, m.Anonymous>>10, m.Huge>>10, m.Threads)
}

// Probe is a container that looks at the agent from inside the guest. It is
// asked over its streams, so that looking is no call and starts nothing in the
// agent.
type Probe struct {
	v       *VM
	streams Streams
	out     *bufio.Scanner
}

// look is the probe's program: for each line it reads, it shows the file, and
// then a line that ends the answer.
const look = `while read file; do cat "$file"; echo; echo "== end"; done`

// Probe starts the probe, a container called "probe".
func (v *VM) Probe() *Probe {
	v.Helper()
	p := &Probe{v: v, streams: Streams{Stdin: v.Stream(), Stdout: v.Stream()}}
	spec := Spec(Shell(look))
	SeeGuest(spec) // with all powers over PID 1
	all := []string{"CAP_SYS_PTRACE", "CAP_SYS_ADMIN", "CAP_DAC_OVERRIDE"}
	spec.Process.Capabilities = &ocipb.LinuxCapabilities{Bounding: all, Effective: all, Permitted: all}
	v.Run("probe", spec, p.streams)
	p.out = bufio.NewScanner(p.streams.Stdout)
	p.out.Buffer(nil, 1<<20)
	return p
}

// File returns a file of the guest.
func (p *Probe) File(path string) string {
	p.v.Helper()
	if _, err := fmt.Fprintln(p.streams.Stdin, path); err != nil {
		p.v.dead(err)
	}
	var text strings.Builder
	for p.out.Scan() {
		if p.out.Text() == "== end" {
			return text.String()
		}
		text.WriteString(p.out.Text() + "\n")
	}
	p.v.dead(fmt.Errorf("read %s: the probe has ended: %v", path, p.out.Err()))
	return ""
}

// Memory returns the agent's memory. The figures of smaps_rollup are counted page
// by page; VmRSS and RssAnon of status lag behind by up to 63 pages a thread
// (SPLIT_RSS_COUNTING).
func (p *Probe) Memory() Memory {
	p.v.Helper()
	status := fields(p.File("/proc/1/status"))
	rollup := fields(p.File("/proc/1/smaps_rollup"))
	m := Memory{Resident: rollup["Rss"] << 10, Anonymous: rollup["Anonymous"] << 10, Huge: rollup["AnonHugePages"] << 10, Threads: status["Threads"]}
	if m.Resident == 0 || m.Anonymous == 0 || m.Threads == 0 {
		p.v.Fatalf("the guest says nothing of the agent's memory: %v, %v", status, rollup)
	}
	return m
}

// fields returns the numbers of lines as "VmRSS:  1234 kB".
func fields(text string) map[string]int64 {
	values := make(map[string]int64)
	for line := range strings.Lines(text) {
		key, rest, ok := strings.Cut(line, ":")
		words := strings.Fields(rest)
		if !ok || len(words) == 0 {
			continue
		}
		if n, err := strconv.ParseInt(words[0], 10, 64); err == nil {
			values[key] = n
		}
	}
	return values
}
