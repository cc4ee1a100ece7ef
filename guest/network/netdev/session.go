package netdev

import (
	"context"
	"errors"

	"golang.org/x/sys/unix"

	"kata/guest/network/netlink"
	"kata/lib/fmt"
)

// session is a conversation with the kernel.
type session struct {
	conn *netlink.Conn
}

// change calls do with a session, and lets nobody else change anything
// meanwhile.
func (n *Network) change(ctx context.Context, do func(*session) error) error {
	select {
	case n.changing <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-n.changing }()
	return n.look(do)
}

// look calls do with a session.
func (n *Network) look(do func(*session) error) (err error) {
	conn, err := netlink.Dial()
	if err != nil {
		return err
	}
	defer func() {
		if closed := conn.Close(); closed != nil {
			err = join(err, closed)
		}
	}()
	return do(&session{conn})
}

// families returns the fixed parts, of so many bytes, of requests about each
// family.
func families(size int) [][]byte {
	four, six := make([]byte, size), make([]byte, size)
	four[0], six[0] = unix.AF_INET, unix.AF_INET6
	return [][]byte{four, six}
}

// list returns what the kernel lists in answer to requests with the given fixed
// parts. (It is for pointers: for these there is one copy in the binary.)
func list[P any](s *session, what string, kind uint16, requests [][]byte, parse func(*netlink.Message) (P, error)) (all []P, err error) {
	for _, fixed := range requests {
		messages, err := s.conn.Dump(netlink.NewRequest(kind, 0, fixed))
		for i := 0; i < len(messages) && err == nil; i++ {
			m := &messages[i]
			// RTM_NEW… is two less than RTM_GET…. Without IPv6 the kernel
			// answers with what it has.
			if m.Type != kind-2 || len(m.Body) == 0 || m.Body[0] != fixed[0] {
				continue
			}
			var p P
			p, err = parse(m)
			all = append(all, p)
		}
		if err != nil {
			return nil, fmt.Errorf("list %s: %w", what, err)
		}
	}
	return all, nil
}

// isErrno reports whether the kernel has answered with errno.
//
//go:noinline
func isErrno(err error, errno unix.Errno) bool { return errors.Is(err, errno) }

// join is errors.Join for two.
//
//go:noinline
func join(a, b error) error { return errors.Join(a, b) }
