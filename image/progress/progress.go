// Package progress tells people what takes its time: what is done, how far it is,
// how long it has taken.
package progress

import (
	"fmt"
	"io"
	"time"
)

// Step tells the user how far something is: a line that is written over on a
// terminal, otherwise a line of its own every few seconds.
type Step struct {
	w        io.Writer
	terminal bool
	what     string
	unit     string
	start    time.Time
	shown    time.Time
	percent  int
}

// New begins a step: what is done, and in which unit it is counted.
func New(w io.Writer, terminal bool, what, unit string) *Step {
	p := &Step{w: w, terminal: terminal, what: what, unit: unit, start: time.Now(), percent: -1}
	if !terminal {
		fmt.Fprintln(w, what)
	}
	return p
}

// At reports that done of about total are done. 100 % is left to End.
func (p *Step) At(done, total int) {
	percent := min(99, done*100/max(total, 1))
	interval := 5 * time.Second
	if p.terminal {
		interval = 200 * time.Millisecond
	}
	if percent <= p.percent || time.Since(p.shown) < interval {
		return
	}
	p.percent, p.shown = percent, time.Now()
	p.line(fmt.Sprintf("%s: %d%% (%d of about %d %s, %v)", p.what, percent, done, max(done, total), p.unit, p.elapsed()))
}

// End reports the end of the step.
func (p *Step) End(ok bool) {
	if ok {
		p.line(fmt.Sprintf("%s: done in %v", p.what, p.elapsed()))
	}
	if p.terminal {
		fmt.Fprintln(p.w)
	}
}

func (p *Step) line(s string) {
	if p.terminal {
		fmt.Fprintf(p.w, "\r\x1b[K%s", s)
	} else {
		fmt.Fprintln(p.w, s)
	}
}

func (p *Step) elapsed() time.Duration { return time.Since(p.start).Round(time.Second) }

// Reader counts what is read through it, in MB of total bytes.
type Reader struct {
	R     io.Reader
	Step  *Step
	Total int64
	n     int64
}

// Read reads.
func (r *Reader) Read(p []byte) (int, error) {
	const mega = 1 << 20
	n, err := r.R.Read(p)
	r.n += int64(n)
	r.Step.At(int(r.n/mega), int(r.Total/mega))
	return n, err
}
