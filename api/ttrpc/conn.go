package ttrpc

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"kata/api/wire"
	"kata/lib/fmt"
)

// serverConn is one connection of a server. Its reader decodes requests and
// starts handlers; each handler's goroutine writes its own answer, so a client
// that does not read holds up nobody but itself, within the bounds of
// ServerOptions.
type serverConn struct {
	server   *Server
	conn     io.ReadWriteCloser
	cancel   context.CancelCauseFunc
	handlers sync.WaitGroup

	lastStream uint32 // the reader's

	// writing is full while somebody has the outgoing side. It is taken before mu
	// and held while writing.
	writing chan struct{}
	buf     []byte

	// mu guards the counts below. Nothing blocks under it.
	mu       sync.Mutex
	inFlight int           // requests decoded and not yet about to be answered
	payload  int           // payload bytes of those
	unsent   int           // requests whose answer is not written yet
	allSent  chan struct{} // closed when unsent is zero; nil when nobody waits
}

// job is an accepted request.
type job struct {
	stream   uint32
	method   *method
	call     Call
	size     int
	timeout  time.Duration
	metadata []Pair
}

// serve reads requests until the connection ends.
func (c *serverConn) serve(ctx context.Context) error {
	frames := frameReader{r: c.conn, limit: MaxMessage}
	for {
		h, body, oversized, err := frames.next()
		if err != nil {
			return err
		}
		switch {
		case oversized:
			err = c.refuse(h.stream, ResourceExhausted, fmt.Sprintf("request of %d bytes exceeds %d", h.length, MaxMessage))
		case h.stream%2 == 0:
			err = c.refuse(h.stream, InvalidArgument, "stream id of a client must be odd")
		case h.kind == typeData:
			err = c.refuse(h.stream, InvalidArgument, "stream is not active")
		case h.kind == typeRequest && h.stream <= c.lastStream:
			err = c.refuse(h.stream, InvalidArgument, "stream id must increase")
		case h.kind == typeRequest:
			c.lastStream = h.stream
			err = c.accept(ctx, h.stream, body)
		}
		if err != nil {
			return err
		}
	}
}

// accept decodes a request and starts its handler, or refuses it. The error is
// the connection's.
func (c *serverConn) accept(ctx context.Context, stream uint32, body []byte) error {
	r, err := parseRequest(body)
	if err != nil {
		return c.refuse(stream, InvalidArgument, "decoding request: "+err.Error())
	}
	methods, ok := c.server.services[string(r.service)]
	if !ok {
		return c.refuse(stream, Unimplemented, "service "+string(r.service)+" is not implemented")
	}
	m, ok := methods[string(r.method)]
	if !ok {
		return c.refuse(stream, Unimplemented, "method "+string(r.service)+"/"+string(r.method)+" is not implemented")
	}
	if c.server.isDraining() {
		return c.refuse(stream, Unavailable, "server is shutting down")
	}
	if err := c.admit(m, len(r.payload)); err != nil {
		return c.refuse(stream, ResourceExhausted, err.Error())
	}
	call, err := m.handler(r.payload)
	if err != nil {
		c.release(m, len(r.payload))
		c.sent()
		code := InvalidArgument
		if errors.Is(err, wire.ErrFields) {
			code = ResourceExhausted
		}
		return c.refuse(stream, code, "decoding "+m.name+" request: "+err.Error())
	}
	j := &job{stream: stream, method: m, call: call, size: len(r.payload), timeout: r.timeout, metadata: r.metadata}
	c.handlers.Add(1)
	go c.run(ctx, j)
	return nil
}

// run handles a request and answers it.
func (c *serverConn) run(ctx context.Context, j *job) {
	defer c.handlers.Done()
	defer c.sent()
	if j.metadata != nil {
		ctx = WithMetadata(ctx, j.metadata...)
	}
	if j.timeout != 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, j.timeout)
		defer cancel()
	}
	var resp Answer
	err := errGone
	defer func() { c.answer(j, resp, err) }()
	done := c.server.opts.OnDone
	if done == nil {
		resp, err = c.call(ctx, j)
		return
	}
	start := time.Now()
	resp, err = c.call(ctx, j)
	done(j.method.service, j.method.name, time.Since(start), err)
}

// errGone is the answer for a handler that ended its goroutine.
var errGone = Errorf(Internal, "handler ended without an answer")

// call runs the handler and turns a panic into an error.
func (c *serverConn) call(ctx context.Context, j *job) (resp Answer, err error) {
	defer func() {
		if v := recover(); v != nil {
			resp, err = nil, Errorf(Internal, "%s panicked: %v", j.method.name, v)
			if c.server.opts.OnPanic != nil {
				c.server.opts.OnPanic(j.method.service, j.method.name, v)
			}
		}
	}()
	resp, err = j.call(ctx)
	if code := c.server.opts.Code; err != nil && code != nil {
		err = code(err)
	}
	return resp, err
}

// answer writes the answer to an accepted request.
func (c *serverConn) answer(j *job, resp Answer, err error) {
	tracked, _ := resp.(Tracked)
	resp, err = c.startWriting(resp, err)
	defer func() { <-c.writing }()
	// From here on this request takes no memory that counts. Not later, since
	// a client may send its next request as soon as it has the answer.
	c.release(j.method, j.size)
	if err == nil {
		c.buf, err = encodeResponse(c.buf, j.stream, resp)
	}
	if err != nil {
		c.buf = appendStatus(c.buf, j.stream, codeOfFailure(err), err.Error())
	}
	failure := err
	if err := c.flush(); err != nil {
		failure = fmt.Errorf("writing answer: %w", err)
		c.cancel(failure)
	}
	if tracked != nil {
		tracked.Sent(failure)
	}
}

// encodeResponse is appendResponse for messages from handlers, which may still
// change them, against the rules, and make encoding panic.
func encodeResponse(b []byte, stream uint32, m Answer) (out []byte, err error) {
	defer func() {
		if v := recover(); v != nil {
			out, err = b, Errorf(Internal, "encoding message panicked: %v", v)
		}
	}()
	return appendResponse(b, stream, m)
}

// codeOfFailure is CodeOf for an error that must not look like success.
func codeOfFailure(err error) Code {
	if code := CodeOf(err); code != OK {
		return code
	}
	return Unknown
}

// refuse answers a request that no handler gets.
func (c *serverConn) refuse(stream uint32, code Code, text string) error {
	c.writing <- struct{}{}
	defer func() { <-c.writing }()
	c.buf = appendStatus(c.buf, stream, code, text)
	if err := c.flush(); err != nil {
		return fmt.Errorf("writing answer: %w", err)
	}
	return nil
}

// flush writes what is in buf.
func (c *serverConn) flush() error {
	_, err := c.conn.Write(c.buf)
	c.buf = c.buf[:0]
	if cap(c.buf) > keepBuffer {
		c.buf = nil
	}
	return err
}

func (c *serverConn) sent() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.unsent--
	if c.unsent == 0 && c.allSent != nil {
		close(c.allSent)
		c.allSent = nil
	}
}

// idle returns a channel that is closed when no request is in progress.
func (c *serverConn) idle() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.unsent == 0 {
		closed := make(chan struct{})
		close(closed)
		return closed
	}
	if c.allSent == nil {
		c.allSent = make(chan struct{})
	}
	return c.allSent
}
