package vhostuser

import (
	"errors"
	"fmt"
	"io"
	"net"

	"golang.org/x/sys/unix"
)

// message is one request with the descriptors that came with it.
type message struct {
	header
	payload []byte
	fds     descriptors
}

// descriptors owns the descriptors of a message until they are taken.
type descriptors []int

// take hands over the i-th descriptor; the caller owns it from now on.
func (d descriptors) take(i int) int {
	fd := d[i]
	d[i] = -1
	return fd
}

// close closes what was not taken.
func (d descriptors) close() {
	for i, fd := range d {
		if fd >= 0 {
			unix.Close(fd)
			d[i] = -1
		}
	}
}

// wantFDs refuses a message that does not carry exactly n descriptors.
func (m *message) wantFDs(n int) error {
	if len(m.fds) != n {
		return fmt.Errorf("%w: message %d with %d descriptors, want %d", ErrFrontend, m.request, len(m.fds), n)
	}
	return nil
}

// reader reads messages from one front-end. Its buffers are reused: a
// message's payload is valid until the next one is read.
type reader struct {
	conn    *net.UnixConn
	head    [headerSize]byte
	payload [maxPayload]byte
	oob     []byte
}

func newReader(conn *net.UnixConn) *reader {
	return &reader{conn: conn, oob: make([]byte, unix.CmsgSpace(maxFDs*4))}
}

// next reads one message. The caller must close its descriptors. io.EOF means
// that the front-end closed the connection between two messages.
func (r *reader) next() (*message, error) {
	m := &message{}
	if err := r.read(m); err != nil {
		m.fds.close()
		return nil, err
	}
	return m, nil
}

func (r *reader) read(m *message) error {
	// Descriptors travel with the first bytes of a message, so that only
	// the header is read with room for them; the kernel drops any that are
	// attached to a payload.
	for got := 0; got < headerSize; {
		n, oobn, flags, _, err := r.conn.ReadMsgUnix(r.head[got:], r.oob)
		if oobn > 0 {
			fds, ferr := parseRights(r.oob[:oobn])
			m.fds = append(m.fds, fds...)
			if ferr != nil {
				return ferr
			}
		}
		switch {
		case flags&unix.MSG_CTRUNC != 0 || len(m.fds) > maxFDs:
			return fmt.Errorf("%w: message with more than %d descriptors", ErrFrontend, maxFDs)
		case (err == nil && n == 0 || errors.Is(err, io.EOF)) && got == 0:
			return io.EOF
		case err == nil && n == 0 || errors.Is(err, io.EOF):
			return fmt.Errorf("%w: connection closed inside a message", ErrFrontend)
		case err != nil:
			return fmt.Errorf("read message header: %w", err)
		}
		got += n
	}
	h, err := parseHeader(r.head[:])
	if err != nil {
		return err
	}
	m.header = h
	m.payload = r.payload[:h.size]
	if _, err := io.ReadFull(r.conn, m.payload); err != nil {
		return fmt.Errorf("read payload of message %d: %w", h.request, err)
	}
	return nil
}

// parseRights returns every descriptor in the control messages b, also beside
// an error: they are open in this process and the caller owns them.
func parseRights(b []byte) (fds []int, err error) {
	msgs, err := unix.ParseSocketControlMessage(b)
	if err != nil {
		return nil, fmt.Errorf("%w: control message: %w", ErrFrontend, err)
	}
	for i := range msgs {
		got, perr := unix.ParseUnixRights(&msgs[i])
		if perr != nil {
			err = fmt.Errorf("%w: control message: %w", ErrFrontend, perr)
			continue
		}
		fds = append(fds, got...)
	}
	return fds, err
}
