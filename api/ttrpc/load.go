package ttrpc

import "sync"

// smallAnswer is the size in bytes up to which answers that wait are not counted:
// the number of requests bounds them well enough.
const smallAnswer = 4 << 10

// ownRequests and ownPayload are what each connection may have in progress
// whatever the others have.
const (
	ownRequests = 16
	ownPayload  = 256 << 10
)

// load is what all connections of a server hold together.
type load struct {
	mu       sync.Mutex // nothing blocks under it
	requests int        // in progress
	payload  int        // bytes of those
	waits    int        // requests that wait for something to happen
	waiting  int        // bytes of large answers that wait for an earlier one to be taken
}

// admit counts a request in, or says which bound it exceeds; own says that the
// bounds do not matter.
func (l *load) admit(opts *ServerOptions, size int, own bool) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case own:
	case l.requests >= opts.MaxTotal:
		return Errorf(ResourceExhausted, "%d requests are in progress on all connections, as many as there may be", opts.MaxTotal)
	case l.requests > 0 && l.payload+size > opts.MaxTotalPayload:
		return Errorf(ResourceExhausted, "requests in progress on all connections exceed %d bytes", opts.MaxTotalPayload)
	}
	l.requests++
	l.payload += size
	return nil
}

func (l *load) release(size int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.requests--
	l.payload -= size
}

// wait counts an answer that has to wait, or reports that too many bytes do
// already, because clients do not read.
func (l *load) wait(opts *ServerOptions, size int) error {
	if size <= smallAnswer {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.waiting+size > opts.MaxAnswers {
		return Errorf(ResourceExhausted, "answers that nobody has read yet exceed %d bytes", opts.MaxAnswers)
	}
	l.waiting += size
	return nil
}

func (l *load) waited(size int) {
	if size <= smallAnswer {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.waiting -= size
}

// smallWait is the size in bytes up to which a request that waits counts as such.
const smallWait = 1 << 10

func (l *load) admitWait(opts *ServerOptions) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.waits >= opts.MaxWaits {
		return Errorf(ResourceExhausted, "%d requests wait on all connections, as many as there may be", opts.MaxWaits)
	}
	l.waits++
	return nil
}

func (l *load) releaseWait() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.waits--
}

// waitsWith tells whether a request of size bytes counts as one that waits.
func (m *method) waitsWith(size int) bool { return m.waits && size <= smallWait }

// admit counts a request in, or says which bound it exceeds.
func (c *serverConn) admit(m *method, size int) error {
	opts := &c.server.opts
	if m.waitsWith(size) {
		if err := c.server.load.admitWait(opts); err != nil {
			return err
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		c.unsent++
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.inFlight >= opts.MaxInFlight:
		return Errorf(ResourceExhausted, "%d requests are in progress on this connection, as many as there may be", opts.MaxInFlight)
	case c.inFlight > 0 && c.payload+size > opts.MaxPayload:
		return Errorf(ResourceExhausted, "requests in progress on this connection exceed %d bytes", opts.MaxPayload)
	}
	own := c.inFlight < ownRequests && c.payload+size <= ownPayload
	if err := c.server.load.admit(opts, size, own); err != nil {
		return err
	}
	c.inFlight++
	c.payload += size
	c.unsent++
	return nil
}

func (c *serverConn) release(m *method, size int) {
	if m.waitsWith(size) {
		c.server.load.releaseWait()
		return
	}
	c.server.load.release(size)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.inFlight--
	c.payload -= size
}

// startWriting takes the outgoing side for an answer, behind others. An answer
// that is too large to wait is replaced by an error.
func (c *serverConn) startWriting(resp Answer, err error) (Answer, error) {
	select {
	case c.writing <- struct{}{}:
		return resp, err
	default:
	}
	size := 0
	if err == nil {
		size = sizeOf(resp)
	}
	if full := c.server.load.wait(&c.server.opts, size); full != nil {
		resp, err, size = nil, full, 0
	}
	c.writing <- struct{}{}
	c.server.load.waited(size)
	return resp, err
}

// sizeOf is the size of an answer, 0 if that panics, as encoding it will.
func sizeOf(m Answer) (size int) {
	defer func() {
		if recover() != nil {
			size = 0
		}
	}()
	if m == nil {
		return 0
	}
	return m.SizeVT()
}
