package vm

import (
	"bytes"
	"strings"
	"sync"
)

// tail is a writer that keeps the last lines written to it. Its zero value is
// ready; it may be used from several goroutines.
type tail struct {
	mu  sync.Mutex
	buf []byte
}

const (
	tailBytes = 16 << 10
	tailLines = 60
)

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf = append(t.buf, p...)
	if drop := len(t.buf) - tailBytes; drop > 0 {
		t.buf = append(t.buf[:0], t.buf[drop:]...)
	}
	return len(p), nil
}

// String returns the last lines, without carriage returns.
func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	text := strings.TrimSpace(string(bytes.ReplaceAll(t.buf, []byte("\r"), nil)))
	lines := strings.Split(text, "\n")
	return strings.Join(lines[max(0, len(lines)-tailLines):], "\n")
}
