package vsock

import (
	"io"
	"net"
	"syscall"
	"time"
)

// Read implements [net.Conn]. After the guest closed its sending half it
// returns what was sent, then io.EOF; after a reset likewise, then an error
// that wraps ECONNRESET; after the VM's end one that wraps [ErrGone].
func (c *Conn) Read(p []byte) (int, error) {
	c.readMu.Lock()
	defer c.readMu.Unlock()
	c.mu.Lock()
	defer c.unlock()
	if len(p) == 0 {
		return 0, c.opError("read", c.check(&c.read))
	}
	if err := c.waitReadable(); err != nil {
		return 0, c.opError("read", err)
	}
	n := c.recv.read(p)
	c.consumed(n)
	return n, nil
}

// WriteTo implements [io.WriterTo]: what the guest sends goes to w straight
// from the receive buffer, until the guest closes its sending half (nil) or
// something fails. While w is slow the guest is told to wait.
func (c *Conn) WriteTo(w io.Writer) (total int64, err error) {
	c.readMu.Lock()
	defer c.readMu.Unlock()
	for {
		p, err := c.lend()
		if err == io.EOF {
			return total, nil
		}
		if err != nil {
			return total, c.opError("read", err)
		}
		n, err := w.Write(p)
		c.giveBack(n)
		total += int64(n)
		if err != nil {
			return total, err
		}
		if n < len(p) {
			return total, io.ErrShortWrite
		}
	}
}

// lend waits for data and returns a part of the receive buffer that stays
// untouched until giveBack.
func (c *Conn) lend() ([]byte, error) {
	c.mu.Lock()
	defer c.unlock()
	if err := c.waitReadable(); err != nil {
		return nil, err
	}
	c.recv.lent = true
	p := c.recv.front()
	return p[:min(len(p), writeChunk)], nil
}

// giveBack removes the first n bytes of what was lent, unless the buffer was
// given up meanwhile.
func (c *Conn) giveBack(n int) {
	c.mu.Lock()
	defer c.unlock()
	if !c.recv.lent {
		return
	}
	c.recv.lent = false
	c.recv.drop(n)
	c.consumed(n)
}

// waitReadable waits until there is data.
func (c *Conn) waitReadable() error {
	for {
		if err := c.check(&c.read); err != nil {
			return err
		}
		switch {
		case c.recv.n > 0:
			return nil
		case (c.sentShut&shutReceive)|(c.peerShut&shutSend) != 0:
			return io.EOF
		case c.dead:
			return c.err
		}
		c.readable.Wait()
	}
}

// Write implements [net.Conn]. It returns when all of p is in the guest's
// buffers. After CloseWrite, or when the guest receives no more, its error
// wraps EPIPE.
func (c *Conn) Write(p []byte) (n int, err error) {
	c.writeMu.Lock()
	defer c.writeMu.Unlock()
	c.mu.Lock()
	defer c.unlock()
	for {
		if err := c.writeErr(); err != nil {
			return n, c.opError("write", err)
		}
		if n == len(p) {
			return n, nil
		}
		m, err := c.d.rx.write(c, p[n:])
		n += m
		switch {
		case err != nil:
			return n, c.opError("write", err)
		case m == 0:
			c.writable.Wait()
		}
	}
}

func (c *Conn) writeErr() error {
	if err := c.check(&c.write); err != nil {
		return err
	}
	switch {
	case c.sentShut&shutSend != 0 || c.peerShut&shutReceive != 0:
		return syscall.EPIPE
	case c.dead:
		return c.err
	}
	return nil
}

// CloseWrite tells the guest that nothing more will be sent: its reads return
// what is on the way, then the end. Repeating it does nothing.
func (c *Conn) CloseWrite() error { return c.closeHalf(shutSend) }

// CloseRead drops what was received and tells the guest that nothing more
// will be read: its writes fail. Repeating it does nothing.
func (c *Conn) CloseRead() error { return c.closeHalf(shutReceive) }

func (c *Conn) closeHalf(half uint32) error {
	c.mu.Lock()
	defer c.unlock()
	switch {
	case c.closed:
		return c.opError("close", net.ErrClosed)
	case c.sentShut&half != 0:
		return nil
	}
	err := c.shut(half)
	c.readable.Broadcast()
	c.writable.Broadcast()
	return c.opError("close", err)
}

// shut closes halves with mu held.
func (c *Conn) shut(halves uint32) error {
	c.sentShut |= halves
	if halves&shutReceive != 0 {
		c.forwarded += uint32(c.recv.n)
		c.recv.release()
	}
	if c.dead {
		return nil
	}
	return c.send(opShutdown, c.sentShut)
}

// Close implements [net.Conn]. What was written still reaches the guest. The
// connection's place in the device is free when the guest has agreed.
func (c *Conn) Close() error {
	c.mu.Lock()
	defer c.unlock()
	if c.closed {
		return c.opError("close", net.ErrClosed)
	}
	c.closed = true
	c.read.stop()
	c.write.stop()
	c.readable.Broadcast()
	c.writable.Broadcast()
	if !c.open {
		return c.opError("close", c.reset(net.ErrClosed))
	}
	err := c.shut(shutBoth)
	if !c.dead {
		c.linger = time.AfterFunc(lingerTime, func() { c.abort(errReset) })
	}
	return c.opError("close", err)
}
