package netdev

import (
	"golang.org/x/sys/unix"

	"kata/lib/fmt"
)

// localTable is the table of the machine's own addresses, which the kernel keeps
// (RT_TABLE_LOCAL).
const localTable = unix.RT_TABLE_LOCAL

// belongings are what a device loses when it is set down: IPv6 addresses, routes,
// and neighbours that stay until they are deleted; of IPv4 addresses nothing.
type belongings struct {
	addresses  []*address
	routes     []*route
	neighbours []*neighbour
}

// belongings returns what the device with a number has.
func (s *session) belongings(links []*link, index int) (*belongings, error) {
	b := &belongings{}
	addresses, err := s.addresses(links)
	if err != nil {
		return nil, err
	}
	for _, a := range addresses {
		if a.index == index {
			b.addresses = append(b.addresses, a)
		}
	}
	routes, err := s.routes()
	if err != nil {
		return nil, err
	}
	for _, r := range routes {
		// What routers announce is asked for again by the kernel.
		if r.on(index) && !r.cloned && r.table != localTable && r.protocol != unix.RTPROT_RA && r.kind == unix.RTN_UNICAST {
			b.routes = append(b.routes, r)
		}
	}
	neighbours, err := s.neighbours()
	if err != nil {
		return nil, err
	}
	for _, n := range neighbours {
		// The kernel makes those of multicast addresses.
		if n.index == index && n.lasts() && !n.addr.IsMulticast() {
			b.neighbours = append(b.neighbours, n)
		}
	}
	return b, nil
}

// restore gives the device with a number back what it has no more: first
// addresses, on which routes depend, then routes, those first that others reach
// their gateways by.
func (s *session) restore(links []*link, index int, had *belongings) error {
	has, err := s.belongings(links, index)
	if err != nil {
		return err
	}
	for _, a := range had.addresses {
		if !hasAddress(has.addresses, a.prefix) {
			err = join(err, s.restoreAddress(a))
		}
	}
	err = join(err, s.restoreMissing(links, had.routes, has.routes))
	for _, n := range had.neighbours {
		if !hasNeighbour(has.neighbours, n) {
			err = join(err, s.addNeighbour(n))
		}
	}
	return err
}

// restoreMissing adds those of the routes that are not there.
func (s *session) restoreMissing(links []*link, had, has []*route) (err error) {
	for _, direct := range [...]bool{true, false} {
		for _, r := range had {
			if r.direct() != direct || hasRoute(has, r) {
				continue
			}
			if e := s.restoreRoute(r); e != nil {
				err = join(err, fmt.Errorf("add route %s: %w", r.describe(links), e))
			}
		}
	}
	return err
}

// hasAddress reports whether a device's addresses have p.
//
//go:noinline
func hasAddress(list []*address, p Prefix) bool {
	for _, a := range list {
		if a.prefix == p {
			return true
		}
	}
	return false
}

// hasRoute reports whether a route like r is in the list.
//
//go:noinline
func hasRoute(list []*route, r *route) bool {
	for _, other := range list {
		if other.same(r) {
			return true
		}
	}
	return false
}
