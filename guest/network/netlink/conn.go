package netlink

import (
	"encoding/binary"
	"errors"
	"os"

	"golang.org/x/sys/unix"

	"kata/lib/fmt"
	"kata/lib/ownedfd"
)

// maxDumps is how often a list is asked for that changes while it is sent.
const maxDumps = 32

// Error is what the kernel says against a request. It matches its errno.
type Error struct {
	Errno unix.Errno
	// Text is the kernel's explanation, or empty.
	Text string
}

func (e *Error) Error() string {
	if e.Text == "" {
		return e.Errno.Error()
	}
	return e.Errno.Error() + " (" + e.Text + ")"
}

// Unwrap returns the errno.
func (e *Error) Unwrap() error { return e.Errno }

// Conn is a socket of rtnetlink. It is for one caller at a time.
type Conn struct {
	fd  *ownedfd.FD
	seq uint32
}

// Dial opens a socket in the network namespace of the calling thread. The caller
// closes it.
func Dial() (*Conn, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, os.NewSyscallError("netlink socket", err)
	}
	// Explanations of errors, without the request in them. A kernel that has
	// neither gives numbers only.
	_ = unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_EXT_ACK, 1)
	_ = unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_CAP_ACK, 1)
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		unix.Close(fd)
		return nil, os.NewSyscallError("bind netlink socket", err)
	}
	return &Conn{fd: ownedfd.New(fd)}, nil
}

// Close closes the socket. Requests after it, and a further Close, get
// os.ErrClosed.
func (c *Conn) Close() error { return c.fd.Close() }

// Do sends a request and returns what the kernel says to it: nil, or an *Error.
func (c *Conn) Do(r *Request) error {
	_, _, err := c.call(r, unix.NLM_F_ACK)
	return err
}

// Dump sends a request for a list and returns it. When the list has changed
// while it was sent, it is asked for again.
func (c *Conn) Dump(r *Request) ([]Message, error) {
	for range maxDumps {
		messages, torn, err := c.call(r, unix.NLM_F_DUMP)
		if err != nil || !torn {
			return messages, err
		}
	}
	return nil, fmt.Errorf("list of netlink messages changed %d times while it was read", maxDumps)
}

// call sends a request and receives up to the message that ends the answer.
// Torn says that the messages may not fit together.
func (c *Conn) call(r *Request, flags uint16) (messages []Message, torn bool, err error) {
	c.seq++
	if err := c.send(r.encode(flags, c.seq)); err != nil {
		return nil, false, err
	}
	for {
		datagram, err := c.receive()
		if err != nil {
			return nil, false, err
		}
		for len(datagram) > 0 {
			var m Message
			if m, datagram, err = split(datagram); err != nil {
				return nil, false, err
			}
			if m.seq != c.seq {
				continue // of a request that was given up
			}
			torn = torn || m.flags&unix.NLM_F_DUMP_INTR != 0
			switch m.Type {
			case unix.NLMSG_NOOP:
			case unix.NLMSG_OVERRUN:
				return nil, false, errors.New("netlink messages were lost")
			case unix.NLMSG_ERROR:
				return messages, torn, verdict(m)
			case unix.NLMSG_DONE:
				if len(m.Body) < 4 {
					return messages, torn, nil // as old kernels end a list
				}
				return messages, torn, verdict(m)
			default:
				messages = append(messages, m)
			}
		}
	}
}

// verdict returns what an NLMSG_ERROR or NLMSG_DONE says.
func verdict(m Message) error {
	if len(m.Body) < 4 {
		return fmt.Errorf("%w: verdict of %d bytes", ErrMalformed, len(m.Body))
	}
	code := int32(binary.NativeEndian.Uint32(m.Body))
	if code == 0 {
		return nil
	}
	if code > 0 || code < -4095 {
		return fmt.Errorf("%w: error %d", ErrMalformed, code)
	}
	result := &Error{Errno: unix.Errno(-code)}
	if m.flags&unix.NLM_F_ACK_TLVS == 0 {
		return result
	}
	at := 4
	if m.Type == unix.NLMSG_ERROR {
		// The header of the request, and its body too unless it was left out.
		if len(m.Body) < 4+unix.SizeofNlMsghdr {
			return result
		}
		at += unix.SizeofNlMsghdr
		if m.flags&unix.NLM_F_CAPPED == 0 {
			at = 4 + aligned(int(min(binary.NativeEndian.Uint32(m.Body[4:]), uint32(len(m.Body)))))
		}
	}
	if at > len(m.Body) {
		return result
	}
	for attrs := ParseAttributes(m.Body[at:]); attrs.Next(); {
		if attrs.Type() == unix.NLMSGERR_ATTR_MSG {
			result.Text = attrs.String()
		}
	}
	return result
}

func (c *Conn) send(b []byte) error {
	for {
		err := c.fd.Use(func(fd int) error { return unix.Send(fd, b, 0) })
		if err != unix.EINTR {
			return os.NewSyscallError("send to netlink", err)
		}
	}
}

// receive returns the next datagram from the kernel.
func (c *Conn) receive() ([]byte, error) {
	for {
		size, _, err := c.recvfrom(nil, unix.MSG_PEEK|unix.MSG_TRUNC)
		if err != nil {
			return nil, err
		}
		b := make([]byte, max(size, 1))
		n, from, err := c.recvfrom(b, 0)
		if err != nil {
			return nil, err
		}
		// Processes may send too.
		if kernel, ok := from.(*unix.SockaddrNetlink); ok && kernel.Pid != 0 {
			continue
		}
		if n == 0 {
			return nil, fmt.Errorf("%w: nothing", ErrMalformed)
		}
		return b[:n], nil
	}
}

func (c *Conn) recvfrom(b []byte, flags int) (n int, from unix.Sockaddr, err error) {
	for {
		err = c.fd.Use(func(fd int) (err error) {
			n, from, err = unix.Recvfrom(fd, b, flags)
			return err
		})
		if err != unix.EINTR {
			return n, from, os.NewSyscallError("receive from netlink", err)
		}
	}
}
