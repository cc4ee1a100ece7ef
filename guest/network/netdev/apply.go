package netdev

import (
	"slices"
	"strconv"

	"golang.org/x/sys/unix"

	"kata/lib/fmt"
)

// set makes a device what want says, or what it was.
func (s *session) set(links []*link, l *link, want *Settings) error {
	had, err := s.belongings(links, l.index)
	if err != nil {
		return err
	}
	if err := s.apply(links, l, want); err != nil {
		if undo := s.undo(l, had); undo != nil {
			return fmt.Errorf("%w; and it could not be put back: %w", err, undo)
		}
		return err
	}
	return nil
}

func (s *session) apply(links []*link, l *link, want *Settings) error {
	if err := s.setLink(links, l, want); err != nil {
		return err
	}
	if err := s.setAddresses(links, l.index, want.Addresses); err != nil {
		return err
	}
	return s.setUp(l, true)
}

// setUp sets a device up or down that is not.
func (s *session) setUp(l *link, up bool) error {
	if l.up() == up {
		return nil
	}
	var flags uint32
	if up {
		flags = unix.IFF_UP
	}
	return s.setFlags(l.index, flags, unix.IFF_UP)
}

// setLink gives a device its name, MTU and flag.
func (s *session) setLink(links []*link, l *link, want *Settings) error {
	if l.name != want.Name {
		if err := s.rename(links, l, want.Name); err != nil {
			return err
		}
	}
	if want.MTU != 0 && want.MTU != l.mtu {
		r := linkRequest(unix.RTM_NEWLINK, l.index, 0, 0)
		r.Uint32(unix.IFLA_MTU, want.MTU)
		if err := s.conn.Do(r); err != nil {
			return fmt.Errorf("set mtu %d: %w", want.MTU, err)
		}
	}
	var noARP uint32
	if want.NoARP {
		noARP = unix.IFF_NOARP
	}
	if l.flags&unix.IFF_NOARP == noARP {
		return nil
	}
	return s.setFlags(l.index, noARP, unix.IFF_NOARP)
}

// setAddresses replaces the addresses of a device. New ones come first: with the
// last IPv4 address a device loses its routes.
func (s *session) setAddresses(links []*link, index int, want []Prefix) error {
	for range 2 {
		addresses, err := s.addresses(links)
		if err != nil {
			return err
		}
		missing, extra := compare(index, want, addresses)
		// The kernel takes an IPv6 address once, whatever its prefix.
		for _, a := range extra {
			if a.prefix.Addr.Is6() && slices.ContainsFunc(missing, func(p Prefix) bool { return p.Addr == a.prefix.Addr }) {
				if err := s.deleteAddress(a); err != nil {
					return err
				}
			}
		}
		for _, p := range missing {
			if err := s.addAddress(index, p); err != nil {
				return err
			}
		}
		for _, a := range extra {
			if err := s.deleteAddress(a); err != nil {
				return err
			}
		}
		if len(extra) == 0 {
			break
		}
		// With the first IPv4 address of a network the others of it go, also
		// those that are to stay.
	}
	return nil
}

// undo puts a device back to what it was.
func (s *session) undo(was *link, had *belongings) error {
	links, err := s.links()
	if err != nil {
		return err
	}
	now := byIndex(links, was.index)
	if now == nil {
		return ErrNotFound
	}
	err = s.setLink(links, now, &Settings{Name: was.name, MTU: was.mtu, NoARP: was.flags&unix.IFF_NOARP != 0})
	addresses, err2 := s.addresses(links)
	err = join(err, err2)
	for _, a := range addresses {
		if a.index == was.index && !a.own && !hasAddress(had.addresses, a.prefix) {
			err = join(err, s.deleteAddress(a))
		}
	}
	err = join(err, s.setUp(now, was.up()))
	return join(err, s.restore(links, was.index, had))
}

// rename gives a device a name. The device that has it already gets the other
// name.
func (s *session) rename(links []*link, l *link, name string) error {
	other := byName(links, name)
	if other == nil {
		return s.renameTo(links, l, name)
	}
	spare := ""
	for i := 0; spare == "" || byName(links, spare) != nil; i++ {
		spare = "swap" + strconv.Itoa(i)
	}
	if err := s.renameTo(links, other, spare); err != nil {
		return err
	}
	err := s.renameTo(links, l, name)
	if err == nil {
		if err = s.renameTo(links, other, l.name); err == nil {
			return nil
		}
		err = join(err, s.renameTo(links, l, l.name))
	}
	return join(err, s.renameTo(links, other, name))
}

// renameTo renames a device to a name that is free. Before Linux 6.2 it has to
// be down for that, and gets back what it loses by that.
func (s *session) renameTo(links []*link, l *link, name string) error {
	r := linkRequest(unix.RTM_NEWLINK, l.index, 0, 0)
	r.String(unix.IFLA_IFNAME, name)
	err := s.conn.Do(r)
	if isErrno(err, unix.EBUSY) {
		had, lost := s.belongings(links, l.index)
		if lost == nil {
			lost = s.setFlags(l.index, 0, unix.IFF_UP)
		}
		if lost != nil {
			return lost
		}
		err = join(s.conn.Do(r), s.setFlags(l.index, unix.IFF_UP, unix.IFF_UP))
		err = join(err, s.restore(links, l.index, had))
	}
	if err != nil {
		return fmt.Errorf("rename %s to %s: %w", l.name, name, err)
	}
	return nil
}
