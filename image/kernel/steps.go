package kernel

import (
	"bytes"
	"io"
	"io/fs"
	"path/filepath"
	"strings"

	"kata/image/progress"
)

// stepCounter is make's output: it goes to the log, and every line of the
// form "  CC      file" is a step.
type stepCounter struct {
	log         io.Writer
	done, total int
	progress    *progress.Step
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
			s.progress.At(s.done, s.total)
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
