package ttrpc

import (
	"context"
	"errors"
	"io"
	"math"
	"sync"
	"time"

	"kata/lib/fmt"
)

// maxQueued is how many bytes of requests may wait for the connection before
// calls wait too.
const maxQueued = 1 << 20

// Client calls the services at the other end of a connection. All methods may
// be used concurrently; answers come in any order.
type Client struct {
	conn    io.ReadWriteCloser
	limit   uint32 // bytes of an answer
	workers sync.WaitGroup
	done    chan struct{}
	wake    chan struct{} // holds one token when out has something for the writer

	// sending guards what is on its way out. It is taken before mu.
	sending struct {
		sync.Mutex
		out  []byte
		next uint32        // id of the next request; ids on the wire increase
		room chan struct{} // closed when out gets empty; nil when nobody waits
	}

	// mu guards the state of calls. Nothing blocks under it.
	mu    sync.Mutex
	calls map[uint32]*call // sent, or about to be, and unanswered
	err   error            // set once, before done is closed
}

// call is a call in progress. Whoever takes it out of Client.calls settles it:
// the reader by writing resp and err and a token to ready, the caller, when it
// gives up, by nothing. So resp is never written after Call has returned.
type call struct {
	resp  Message
	err   error
	ready chan struct{}
}

// NewClient returns a client that owns conn: Close closes it, and so does the
// first error. Closing conn must make reads and writes in progress return.
func NewClient(conn io.ReadWriteCloser) *Client { return NewBoundedClient(conn, MaxMessage) }

// NewBoundedClient returns a client that takes answers of at most maxAnswer
// bytes, up to MaxMessage; a call with a larger one ends in ResourceExhausted.
// It is for servers that are not trusted: a message of many empty elements
// takes up to a hundred times its size once it is decoded.
func NewBoundedClient(conn io.ReadWriteCloser, maxAnswer int) *Client {
	c := &Client{
		conn:  conn,
		limit: uint32(min(maxAnswer, MaxMessage)),
		done:  make(chan struct{}),
		wake:  make(chan struct{}, 1),
		calls: make(map[uint32]*call),
	}
	c.sending.next = 1
	c.workers.Go(c.read)
	c.workers.Go(c.write)
	return c
}

// Close closes the connection, fails the calls in progress with ErrClosed and
// waits for the client's goroutines. It is idempotent.
func (c *Client) Close() error {
	c.fail(ErrClosed)
	c.workers.Wait()
	return nil
}

// Done is closed when the connection is, by either side; Err says why.
func (c *Client) Done() <-chan struct{} { return c.done }

// Err returns nil before Done, then an error that wraps ErrClosed and the
// reason, if there is one besides a Close of either side.
func (c *Client) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// Call calls a method and decodes the answer into resp, which is the caller's
// again when Call returns. A deadline of ctx travels with the request, so that
// the handler gets it too.
//
// The error is an *Error when the server answered with one, or when the request
// is over MaxMessage; it wraps ctx's error when ctx ended first, and ErrClosed
// when the connection is, or got, closed. In the last two cases the method may
// or may not have run.
func (c *Client) Call(ctx context.Context, service, method string, req, resp Message) error {
	if err := ctx.Err(); err != nil {
		return callError(service, method, err)
	}
	k := &call{resp: resp, ready: make(chan struct{}, 1)}
	stream, err := c.send(ctx, service, method, req, k)
	if err != nil {
		return err
	}
	select {
	case <-k.ready:
		return k.err
	case <-ctx.Done():
	}
	if c.take(stream) == nil {
		<-k.ready // the reader was faster and is decoding into resp
		return k.err
	}
	return callError(service, method, ctx.Err())
}

func callError(service, method string, err error) error {
	return fmt.Errorf("calling %s/%s: %w", service, method, err)
}

// send queues the request and registers the call.
func (c *Client) send(ctx context.Context, service, method string, req Message, k *call) (stream uint32, err error) {
	if err := c.lockRoom(ctx); err != nil {
		return 0, callError(service, method, err)
	}
	defer c.sending.Unlock()
	var timeout time.Duration
	if deadline, ok := ctx.Deadline(); ok {
		if timeout = time.Until(deadline); timeout <= 0 {
			return 0, callError(service, method, context.DeadlineExceeded)
		}
	}
	stream = c.sending.next
	if stream > math.MaxUint32-2 {
		return 0, callError(service, method, Errorf(ResourceExhausted, "connection has no stream id left"))
	}
	out, err := appendRequest(c.sending.out, stream, service, method, req, timeout, MetadataOf(ctx))
	if err != nil {
		return 0, err
	}
	if err := c.register(stream, k); err != nil {
		return 0, callError(service, method, err)
	}
	c.sending.out = out
	c.sending.next += 2
	select {
	case c.wake <- struct{}{}:
	default:
	}
	return stream, nil
}

// lockRoom locks sending when there is room in out.
func (c *Client) lockRoom(ctx context.Context) error {
	for {
		c.sending.Lock()
		if len(c.sending.out) < maxQueued {
			return nil
		}
		if c.sending.room == nil {
			c.sending.room = make(chan struct{})
		}
		room := c.sending.room
		c.sending.Unlock()
		select {
		case <-room:
		case <-ctx.Done():
			return ctx.Err()
		case <-c.done:
			return c.Err()
		}
	}
}

func (c *Client) register(stream uint32, k *call) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return c.err
	}
	c.calls[stream] = k
	return nil
}

// take removes a call; nil when somebody else did.
func (c *Client) take(stream uint32) *call {
	c.mu.Lock()
	defer c.mu.Unlock()
	k := c.calls[stream]
	delete(c.calls, stream)
	return k
}

// write sends what calls queue, as much at a time as there is.
func (c *Client) write() {
	var buf []byte
	for {
		select {
		case <-c.wake:
		case <-c.done:
			return
		}
		c.sending.Lock()
		buf, c.sending.out = c.sending.out, buf[:0]
		if c.sending.room != nil {
			close(c.sending.room)
			c.sending.room = nil
		}
		c.sending.Unlock()
		if _, err := c.conn.Write(buf); err != nil {
			c.fail(fmt.Errorf("%w: %w", ErrClosed, err))
			return
		}
		if cap(buf) > keepBuffer {
			buf = nil
		}
	}
}

// read settles calls with the answers that come.
func (c *Client) read() {
	frames := frameReader{r: c.conn, limit: c.limit}
	for {
		h, body, oversized, err := frames.next()
		if err != nil {
			if errors.Is(err, io.EOF) {
				c.fail(ErrClosed)
			} else {
				c.fail(fmt.Errorf("%w: %w", ErrClosed, err))
			}
			return
		}
		if h.kind != typeResponse && h.kind != typeData {
			continue // as containerd/ttrpc does
		}
		k := c.take(h.stream)
		if k == nil {
			continue // the caller gave up
		}
		if oversized {
			k.err = Errorf(ResourceExhausted, "answer of %d bytes exceeds %d", h.length, c.limit)
		} else {
			k.err = settle(h, body, k.resp)
		}
		k.ready <- struct{}{}
	}
}

// settle decodes an answer into resp.
func settle(h header, body []byte, resp Message) error {
	if h.kind == typeData {
		return Errorf(Internal, "server sent a stream in answer to a unary call")
	}
	payload, status, err := parseResponse(body)
	if err != nil {
		return Errorf(Internal, "decoding answer: %w", err)
	}
	if status != nil {
		return status
	}
	if err := resp.UnmarshalVT(payload); err != nil {
		return Errorf(Internal, "decoding answer: %w", err)
	}
	return nil
}

// fail closes the connection and settles all calls with err. Only the first
// call does.
func (c *Client) fail(err error) {
	if !c.settleAll(err) {
		return
	}
	close(c.done)
	_ = c.conn.Close()
}

func (c *Client) settleAll(err error) (first bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return false
	}
	c.err = err
	for _, k := range c.calls {
		k.err = err
		k.ready <- struct{}{}
	}
	clear(c.calls)
	return true
}
