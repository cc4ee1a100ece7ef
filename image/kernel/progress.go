package kernel

import (
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"strings"
	"time"
)

// progress tells the user how far a step is: a line that is written over on a
// terminal, otherwise a line of its own every few seconds.
type progress struct {
	w        io.Writer
	terminal bool
	what     string
	unit     string
	start    time.Time
	shown    time.Time
	percent  int
}

func newProgress(w io.Writer, terminal bool, what, unit string) *progress {
	p := &progress{w: w, terminal: terminal, what: what, unit: unit, start: time.Now(), percent: -1}
	if !terminal {
		fmt.Fprintln(w, what)
	}
	return p
}

// at reports that done of about total are done. 100 % is left to end.
func (p *progress) at(done, total int) {
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

// end reports the end of the step.
func (p *progress) end(ok bool) {
	if ok {
		p.line(fmt.Sprintf("%s: done in %v", p.what, p.elapsed()))
	}
	if p.terminal {
		fmt.Fprintln(p.w)
	}
}

func (p *progress) line(s string) {
	if p.terminal {
		fmt.Fprintf(p.w, "\r\x1b[K%s", s)
	} else {
		fmt.Fprintln(p.w, s)
	}
}

func (p *progress) elapsed() time.Duration { return time.Since(p.start).Round(time.Second) }

// stepCounter is make's output: it goes to the log, and every line of the
// form "  CC      file" is a step.
type stepCounter struct {
	log         io.Writer
	done, total int
	progress    *progress
	partial     []byte
	last        []string // lines for an error message
}

const keptLines = 40

func (s *stepCounter) Write(p []byte) (int, error) {
	s.partial = append(s.partial, p...)
	for {
		i := bytes.IndexByte(s.partial, '\n')
		if i < 0 {
			break
		}
		line := string(s.partial[:i])
		s.partial = s.partial[i+1:]
		if isStep(line) {
			s.done++
			s.progress.at(s.done, s.total)
		} else if strings.TrimSpace(line) != "" {
			s.last = append(s.last, line)
			s.last = s.last[max(0, len(s.last)-keptLines):]
		}
	}
	return s.log.Write(p)
}

// tail returns the last lines that are no steps: the errors.
func (s *stepCounter) tail() string {
	return strings.Join(append(s.last, string(s.partial)), "\n")
}

func isStep(line string) bool {
	return len(line) > 3 && line[0] == ' ' && line[1] == ' ' && line[2] >= 'A' && line[2] <= 'Z'
}

// A build of the default fragment was 2745 steps for 1046 options that are
// built in; other fragments are taken to be in proportion.
const (
	measuredSteps   = 2745
	measuredOptions = 1046
)

func estimate(config []byte) int {
	return bytes.Count(config, []byte("=y\n")) * measuredSteps / measuredOptions
}

// builtAlready estimates the steps that an interrupted build has done: its
// objects, and as many archives in proportion as a whole build has.
func builtAlready(source string) int {
	const measuredObjects = 2177
	objects := 0
	// A folder that cannot be read only makes the estimate worse.
	_ = filepath.WalkDir(source, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() && strings.HasSuffix(path, ".o") {
			objects++
		}
		return nil
	})
	return objects * measuredSteps / measuredObjects
}
