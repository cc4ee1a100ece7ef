package stage

import (
	"errors"
	"io"

	"golang.org/x/sys/unix"

	"kata/guest/container/plan"
	"kata/guest/container/rootfs"
	"kata/guest/fault"
	"kata/guest/storage/mount"
	"kata/lib/fmt"
)

// conn is the stage's end of the socket.
type conn int

// commandError is an error about the command itself.
type commandError struct{ err error }

func (e commandError) Error() string { return e.err.Error() }

// plan receives what to do.
func (c conn) plan() (*plan.Plan, error) {
	var start [4]byte
	if err := c.read(start[:]); err != nil {
		return nil, err
	}
	n, ok := plan.ParseLength(start)
	if !ok {
		return nil, errors.New("it is too long")
	}
	data := make([]byte, n)
	if err := c.read(data); err != nil {
		return nil, err
	}
	p := new(plan.Plan)
	return p, p.Unmarshal(data)
}

// trees receives the trees of a plan.
func (c conn) trees(places []int) (rootfs.Trees, error) {
	t := make(rootfs.Trees, len(places))
	oob := make([]byte, unix.CmsgSpace(4*plan.MaxDescriptors))
	for len(places) > 0 {
		var b [1]byte
		n, oobn, _, _, err := unix.Recvmsg(int(c), b[:], oob, unix.MSG_CMSG_CLOEXEC)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return nil, err
		}
		var fds []int
		if messages, err := unix.ParseSocketControlMessage(oob[:oobn]); err == nil && len(messages) > 0 {
			fds, _ = unix.ParseUnixRights(&messages[0]) // an error leaves none
		}
		if n == 0 || len(fds) == 0 || len(fds) > len(places) {
			return nil, errors.New("the runtime sent no descriptors")
		}
		for i, fd := range fds {
			t[places[i]] = mount.Hold(fd)
		}
		places = places[len(fds):]
	}
	return t, nil
}

// awaitGo returns when the runtime says so.
func (c conn) awaitGo() error {
	var b [1]byte
	if err := c.read(b[:]); err != nil {
		return err
	}
	if b[0] != plan.Go {
		return errors.New("unexpected message from the runtime")
	}
	return nil
}

func (c conn) read(b []byte) error {
	for len(b) > 0 {
		n, err := unix.Read(int(c), b)
		switch {
		case err == unix.EINTR:
		case err != nil:
			return err
		case n == 0:
			return io.ErrUnexpectedEOF
		default:
			b = b[n:]
		}
	}
	return nil
}

func (c conn) send(kind byte, text []byte, fds ...int) error {
	if len(text) > plan.MaxMessage {
		text = text[:plan.MaxMessage]
	}
	message := append(plan.Header(kind, len(text)), text...)
	var rights []byte
	if len(fds) > 0 {
		rights = unix.UnixRights(fds...)
	}
	for len(message) > 0 {
		n, err := unix.SendmsgN(int(c), message, rights, nil, unix.MSG_NOSIGNAL)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return fmt.Errorf("answer the runtime: %w", err)
		}
		message, rights = message[n:], nil
	}
	return nil
}

// refusedError is an error about what was asked for.
type refusedError struct{ error }

func (c conn) fail(err error) {
	kind := byte(plan.Failed)
	var command commandError
	var refused refusedError
	switch {
	case errors.As(err, &command):
		kind = plan.ExecFailed
	case errors.As(err, &refused), errors.Is(err, fault.Invalid):
		kind = plan.Refused
	}
	_ = c.send(kind, []byte(err.Error())) // the runtime is gone if this fails
}
