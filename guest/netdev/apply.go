package netdev

import (
	"errors"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"

	"kata/api/fmt"
)

// set makes the device what want says, or what it was.
func (s *session) set(links []link, l link, want Settings) error {
	had, err := s.belongings(links, l.index)
	if err != nil {
		return err
	}
	if err := s.apply(links, l, want); err != nil {
		if undo := s.undo(l, had); undo != nil {
			return errors.Join(err, fmt.Errorf("put it back: %w", undo))
		}
		return err
	}
	return nil
}

func (s *session) apply(links []link, l link, want Settings) error {
	if err := s.setLink(links, l, want); err != nil {
		return err
	}
	if err := s.setAddresses(links, l.index, want.Addresses); err != nil {
		return err
	}
	if !l.up() {
		if err := s.setFlags(l.index, unix.IFF_UP, unix.IFF_UP); err != nil {
			return fmt.Errorf("set it up: %w", err)
		}
	}
	return nil
}

// setLink gives a device its name, MTU and flag.
func (s *session) setLink(links []link, l link, want Settings) error {
	if l.name != want.Name {
		if err := s.rename(links, l, want.Name); err != nil {
			return err
		}
	}
	if want.MTU != 0 && want.MTU != l.mtu {
		if err := s.setMTU(l.index, want.MTU); err != nil {
			return err
		}
	}
	var noARP uint32
	if want.NoARP {
		noARP = unix.IFF_NOARP
	}
	if l.flags&unix.IFF_NOARP != noARP {
		if err := s.setFlags(l.index, noARP, unix.IFF_NOARP); err != nil {
			return fmt.Errorf("set flag NOARP to %t: %w", want.NoARP, err)
		}
	}
	return nil
}

func (s *session) setMTU(index int, mtu uint32) error {
	r := linkRequest(index, 0, 0)
	r.Uint32(unix.IFLA_MTU, mtu)
	if err := s.conn.Do(r); err != nil {
		return fmt.Errorf("set mtu %d: %w", mtu, err)
	}
	return nil
}

// setAddresses replaces the addresses of a device. New ones come first: with the
// last IPv4 address a device loses its routes.
func (s *session) setAddresses(links []link, index int, want []Prefix) error {
	addresses, err := s.addresses(links)
	if err != nil {
		return err
	}
	missing, extra := compare(index, want, addresses)
	if len(missing) == 0 && len(extra) == 0 {
		return nil
	}
	for _, p := range missing {
		// The kernel takes an IPv6 address once, whatever its prefix.
		for i, a := range extra {
			if p.Addr.Is6() && a.prefix.Addr == p.Addr {
				if err := s.deleteAddress(a); err != nil {
					return err
				}
				extra = slices.Delete(extra, i, i+1)
				break
			}
		}
		if err := s.addAddress(index, p); err != nil {
			return err
		}
	}
	for _, a := range extra {
		// It goes with the first one of its network, if that has gone.
		if err := s.deleteAddress(a); err != nil && !isErrno(err, unix.EADDRNOTAVAIL) {
			return err
		}
	}
	if len(extra) == 0 {
		return nil
	}
	// What was to stay may have gone in that way too.
	if addresses, err = s.addresses(links); err != nil {
		return err
	}
	missing, _ = compare(index, want, addresses)
	for _, p := range missing {
		if err := s.addAddress(index, p); err != nil {
			return err
		}
	}
	return nil
}

// undo puts a device back to what it was.
func (s *session) undo(was link, had belongings) error {
	links, err := s.links(false)
	if err != nil {
		return err
	}
	now := byIndex(links, was.index)
	if now == nil {
		return fmt.Errorf("%w: %s", ErrNotFound, was.name)
	}
	err = s.setLink(links, *now, Settings{Name: was.name, MTU: was.mtu, NoARP: was.flags&unix.IFF_NOARP != 0})
	addresses, err2 := s.addresses(links)
	err = errors.Join(err, err2)
	for _, a := range addresses {
		if a.index == was.index && !a.own && !hasAddress(had.addresses, a.prefix) {
			err = errors.Join(err, s.deleteAddress(a))
		}
	}
	if now.up() != was.up() {
		err = errors.Join(err, s.setFlags(was.index, was.flags, unix.IFF_UP))
	}
	return errors.Join(err, s.restore(links, was.index, had))
}

// rename gives a device a name. The device that has it already gets the other
// name.
func (s *session) rename(links []link, l link, name string) error {
	other := byName(links, name)
	if other == nil {
		return s.renameTo(links, l, name)
	}
	if other.loopback() {
		return &InvalidError{Field: "name", Value: name, Reason: "is the loopback device's name"}
	}
	spare := spareName(links)
	if err := s.renameTo(links, *other, spare); err != nil {
		return err
	}
	if err := s.renameTo(links, l, name); err != nil {
		return errors.Join(err, s.renameTo(links, *other, name))
	}
	if err := s.renameTo(links, *other, l.name); err != nil {
		return errors.Join(err, s.renameTo(links, l, l.name), s.renameTo(links, *other, name))
	}
	return nil
}

// spareName returns a name that no device has.
func spareName(links []link) string {
	for i := 0; ; i++ {
		if name := "swap" + strconv.Itoa(i); byName(links, name) == nil {
			return name
		}
	}
}

// renameTo renames a device to a name that is free. Before Linux 6.2 it has to
// be down for that, and gets back what it loses by that.
func (s *session) renameTo(links []link, l link, name string) (err error) {
	r := linkRequest(l.index, 0, 0)
	r.String(unix.IFLA_IFNAME, name)
	if err = s.conn.Do(r); isErrno(err, unix.EBUSY) {
		err = s.renameDown(links, l, name)
	}
	if err != nil {
		return fmt.Errorf("rename %s to %s: %w", l.name, name, err)
	}
	return nil
}

func (s *session) renameDown(links []link, l link, name string) error {
	had, err := s.belongings(links, l.index)
	if err != nil {
		return err
	}
	if err := s.setFlags(l.index, 0, unix.IFF_UP); err != nil {
		return err
	}
	r := linkRequest(l.index, 0, 0)
	r.String(unix.IFLA_IFNAME, name)
	err = s.conn.Do(r)
	return errors.Join(err, s.setFlags(l.index, unix.IFF_UP, unix.IFF_UP), s.restore(links, l.index, had))
}
