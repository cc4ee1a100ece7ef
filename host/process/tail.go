package process

import "sync"

// Tail is an io.Writer that keeps the last bytes written to it: the end of a
// console or of stderr. It is safe for concurrent use and never fails.
type Tail struct {
	mu      sync.Mutex
	ring    []byte // grows to limit, then wraps
	limit   int
	next    int // where the next byte goes once len(ring) == limit
	dropped bool
}

// NewTail returns a Tail of at most limit bytes; memory grows with use.
func NewTail(limit int) *Tail { return &Tail{limit: max(limit, 1)} }

// Write keeps the end of p.
func (t *Tail) Write(p []byte) (int, error) {
	n := len(p)
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(p) > t.limit {
		p = p[len(p)-t.limit:]
		t.dropped = true
	}
	if room := t.limit - len(t.ring); room > 0 {
		fill := min(room, len(p))
		t.ring = append(t.ring, p[:fill]...)
		p = p[fill:]
	}
	for len(p) > 0 {
		t.dropped = true
		copied := copy(t.ring[t.next:], p)
		t.next = (t.next + copied) % t.limit
		p = p[copied:]
	}
	return n, nil
}

// String returns what is kept, from the first whole line when older bytes were
// dropped.
func (t *Tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	out := make([]byte, 0, len(t.ring))
	out = append(out, t.ring[t.next:]...)
	out = append(out, t.ring[:t.next]...)
	if t.dropped {
		for i, b := range out {
			if b == '\n' && i+1 < len(out) {
				return string(out[i+1:])
			}
		}
	}
	return string(out)
}
