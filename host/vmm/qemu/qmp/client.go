// Package qmp is a client of the QEMU Machine Protocol (QEMU's
// docs/interop/qmp-spec.txt): commands and replies as JSON lines on a unix
// socket, events in between.
//
// Commands may be issued concurrently and are matched to replies by id; QEMU
// executes them in order. A command whose context ends is given up, its reply
// ignored; the connection stays good. The exception is a command that is only
// half written then: that ends the connection.
//
// The package knows no commands but qmp_capabilities: callers bring names and
// argument types.
//
// Life cycle: New takes over a connection, reads the greeting and negotiates;
// Close, or the end of the connection, ends every command in flight with an
// error and closes every subscription.
package qmp

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// ErrNoGreeting is wrapped by New's error when the peer did not get so far as to
// greet: QEMU does before its guest runs.
var ErrNoGreeting = errors.New("read qmp greeting")

// ErrClosed is wrapped by the error of every command on an ended connection.
var ErrClosed = errors.New("qmp connection closed")

// Client is one negotiated QMP connection. Methods may be called concurrently.
type Client struct {
	conn    *net.UnixConn
	version Version
	done    chan struct{}

	write chan struct{} // capacity 1: held while a command is being written

	mu      sync.Mutex // guards what follows; never held across I/O
	nextID  uint64
	pending map[uint64]chan<- *message
	subs    map[*Subscription]struct{}
	err     error // why the connection ended
}

// New reads the greeting from conn and negotiates capabilities, within ctx.
// The client owns conn from here, also when New returns an error.
func New(ctx context.Context, conn *net.UnixConn) (*Client, error) {
	c := &Client{
		conn:    conn,
		done:    make(chan struct{}),
		write:   make(chan struct{}, 1),
		pending: map[uint64]chan<- *message{},
		subs:    map[*Subscription]struct{}{},
	}
	messages := newDecoder(conn)
	if err := c.greet(ctx, messages); err != nil {
		conn.Close()
		close(c.done)
		return nil, err
	}
	go c.read(messages)
	if err := c.Execute(ctx, "qmp_capabilities", nil, nil); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

func (c *Client) greet(ctx context.Context, messages *decoder) error {
	stop := context.AfterFunc(ctx, func() { _ = c.conn.SetReadDeadline(time.Unix(1, 0)) })
	m, err := messages.next()
	if !stop() && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		return fmt.Errorf("%w: %w", ErrNoGreeting, err)
	}
	if m.Greeting == nil {
		return fmt.Errorf("%w: the peer said something else", ErrNoGreeting)
	}
	v := m.Greeting.Version.QEMU
	c.version = Version{v.Major, v.Minor, v.Micro}
	return nil
}

// Version returns QEMU's version, from its greeting.
func (c *Client) Version() Version { return c.version }

// Done is closed when the connection has ended and its reader with it.
func (c *Client) Done() <-chan struct{} { return c.done }

// Close ends the connection and returns when its reader has ended. It is
// idempotent.
func (c *Client) Close() {
	c.fail(ErrClosed)
	<-c.done
}

// Execute issues a command and decodes its reply into result, which may be nil
// to ignore it; args may be nil. A refusal by QEMU is an [*Error].
func (c *Client) Execute(ctx context.Context, command string, args, result any) error {
	return c.execute(ctx, command, args, result, nil)
}

// ExecuteWithFile is Execute for a command that takes a descriptor (getfd,
// add-fd), which travels along. The file stays the caller's.
func (c *Client) ExecuteWithFile(ctx context.Context, command string, args, result any, file *os.File) error {
	return c.execute(ctx, command, args, result, file)
}

func (c *Client) execute(ctx context.Context, command string, args, result any, file *os.File) error {
	reply := make(chan *message, 1)
	id, err := c.register(reply)
	if err != nil {
		return fmt.Errorf("qmp %s: %w", command, err)
	}
	defer c.forget(id)
	line, err := json.Marshal(request{command, args, id})
	if err != nil {
		return fmt.Errorf("qmp %s: encode arguments: %w", command, err)
	}
	if err := c.send(ctx, append(line, '\n'), file); err != nil {
		return fmt.Errorf("qmp %s: %w", command, err)
	}
	select {
	case m := <-reply:
		return decodeReply(command, m, result)
	case <-ctx.Done():
		return fmt.Errorf("qmp %s: %w", command, context.Cause(ctx))
	case <-c.done:
	}
	select { // the reply may have been the last thing read
	case m := <-reply:
		return decodeReply(command, m, result)
	default:
		return fmt.Errorf("qmp %s: %w", command, c.Err())
	}
}

func decodeReply(command string, m *message, result any) error {
	if m.Error != nil {
		m.Error.Command = command
		return m.Error
	}
	if result == nil {
		return nil
	}
	if err := json.Unmarshal(m.Return, result); err != nil {
		return fmt.Errorf("qmp %s: decode reply: %w", command, err)
	}
	return nil
}

// Err says why the connection ended; nil while it has not.
func (c *Client) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

func (c *Client) register(reply chan<- *message) (uint64, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return 0, c.err
	}
	c.nextID++
	c.pending[c.nextID] = reply
	return c.nextID, nil
}

func (c *Client) forget(id uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.pending, id)
}

// send writes one line, with the descriptor on its first byte.
func (c *Client) send(ctx context.Context, line []byte, file *os.File) error {
	select {
	case c.write <- struct{}{}:
		defer func() { <-c.write }()
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-c.done:
		return c.Err()
	}
	if err := ctx.Err(); err != nil {
		return context.Cause(ctx)
	}
	expired := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		_ = c.conn.SetWriteDeadline(time.Unix(1, 0))
		close(expired)
	})
	err := c.writeLine(line, file)
	if !stop() {
		<-expired
		_ = c.conn.SetWriteDeadline(time.Time{}) // for the next command
	}
	if err != nil {
		err = fmt.Errorf("%w: a command was not written: %w", ErrClosed, err)
		c.fail(err)
	}
	return err
}

func (c *Client) writeLine(line []byte, file *os.File) error {
	if file == nil {
		_, err := c.conn.Write(line)
		return err
	}
	conn, err := file.SyscallConn()
	if err != nil {
		return err
	}
	var n int
	var writeErr error
	err = conn.Control(func(fd uintptr) {
		n, _, writeErr = c.conn.WriteMsgUnix(line, unix.UnixRights(int(fd)), nil)
	})
	if err = errors.Join(err, writeErr); err == nil && n < len(line) {
		_, err = c.conn.Write(line[n:])
	}
	return err
}

// read hands out what QEMU sends until the connection ends.
func (c *Client) read(messages *decoder) {
	defer close(c.done)
	for {
		m, err := messages.next()
		if errors.Is(err, io.EOF) {
			err = ErrClosed
		} else if err != nil {
			err = fmt.Errorf("%w: %w", ErrClosed, err)
		}
		if err != nil {
			c.fail(err)
			c.closeSubscriptions()
			return
		}
		switch {
		case m.Event != "":
			c.publish(m.event())
		case m.Return != nil || m.Error != nil:
			c.answer(m)
		}
	}
}

// answer hands a reply to its command, if that still waits.
func (c *Client) answer(m *message) {
	id, err := strconv.ParseUint(string(m.ID), 10, 64)
	if err != nil {
		return // not ours: QEMU could not parse what it answers
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if reply, ok := c.pending[id]; ok {
		delete(c.pending, id) // so that a second reply cannot block
		reply <- m
	}
}

// fail ends the connection; the reader does the rest.
func (c *Client) fail(err error) {
	c.mu.Lock()
	if c.err == nil {
		c.err = err
	}
	c.mu.Unlock()
	c.conn.Close()
}
