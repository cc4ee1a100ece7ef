package netdev

import (
	"context"
	"strconv"

	"golang.org/x/sys/unix"

	"kata/guest/fault"
	"kata/lib/fmt"
)

// Route is a route of the main table to where packets are sent on.
type Route struct {
	Dst     Prefix
	Gateway Addr // none: Dst is on the link itself
	Device  string
	// Source is the address that packets come from unless they say otherwise.
	Source Addr
	// Scope is an RT_SCOPE_ value; IPv6 has none. 0, the universe, of an IPv4
	// route without a gateway stands for the link, as with ip route.
	Scope uint8
	// Metric 0 stands for the kernel's: 0 for IPv4, 1024 for IPv6.
	Metric uint32
	// MTU 0 is the device's.
	MTU uint32
	// Onlink says that the gateway is on the link even if no route leads there.
	Onlink bool
}

// metric6 is the kernel's metric for IPv6 routes (IP6_RT_PRIO_USER).
const metric6 = 1024

// RouteError is the route that could not be set. The routes are what they were
// before, unless Restore says why not.
type RouteError struct {
	// Index is that of the list's route, -1 for one that was to be deleted.
	Index int
	// Route describes it.
	Route        string
	Err, Restore error
}

func (e *RouteError) Error() string {
	doing := "add"
	if e.Index < 0 {
		doing = "delete"
	}
	if e.Restore != nil {
		return fmt.Sprintf("%s route %s: %v; and the routes before could not all be restored: %v", doing, e.Route, e.Err, e.Restore)
	}
	return fmt.Sprintf("%s route %s: %v; the routes are as before", doing, e.Route, e.Err)
}

// Unwrap returns the cause.
func (e *RouteError) Unwrap() error { return e.Err }

// fault says where in the request the route is. When not all is as before, it is
// not the request's fault alone.
func (e *RouteError) fault() error {
	f := &fault.Error{Cause: e}
	if e.Restore == nil {
		f.Kind = kindOf(e.Err)
	}
	if e.Index >= 0 {
		f.Field = "[" + strconv.Itoa(e.Index) + "]"
	}
	return f
}

// Routes returns the routes of both families in the main table, one for each
// gateway where a route has several.
func (n *Network) Routes() (all []*Route, err error) {
	err = n.look(func(s *session) error {
		links, err := s.links()
		if err != nil {
			return err
		}
		routes, err := s.mainRoutes(links)
		for _, r := range routes {
			for _, h := range r.hops {
				all = append(all, &Route{
					Dst: r.dst, Gateway: h.gateway, Device: byIndex(links, h.index).name, Source: r.source,
					Scope: r.scope, Metric: r.metric, MTU: r.mtu, Onlink: h.onlink,
				})
			}
		}
		return err
	})
	return all, err
}

// mainRoutes returns the routes of the main table that lead to a device other
// than the loopback device.
func (s *session) mainRoutes(links []*link) (routes []*route, err error) {
	all, err := s.routes()
	for _, r := range all {
		ours := len(r.hops) > 0 && r.table == unix.RT_TABLE_MAIN && r.kind == unix.RTN_UNICAST && !r.cloned
		for _, h := range r.hops {
			l := byIndex(links, h.index)
			ours = ours && l != nil && !l.loopback()
		}
		if ours {
			routes = append(routes, r)
		}
	}
	return routes, err
}

// managed reports whether a route is one of those that SetRoutes replaces: not
// those that the kernel makes of addresses and of what routers announce.
func (r *route) managed() bool {
	return r.protocol != unix.RTPROT_KERNEL && r.protocol != unix.RTPROT_RA && r.protocol != unix.RTPROT_REDIRECT
}

// managed returns those of the routes that are managed.
//
//go:noinline
func managed(all []*route) (routes []*route) {
	for _, r := range all {
		if r.managed() {
			routes = append(routes, r)
		}
	}
	return routes
}

// wanted is a route that is to be there.
type wanted struct {
	route
	index int // of the first of the list's routes that it stands for
	// anyMetric and anyScope say that none was asked for.
	anyMetric, anyScope bool
}

// is reports whether a route that is there is the wanted one. One of the
// kernel's own is, if it does not contradict what was said.
//
//go:noinline
func (w *wanted) is(r *route) bool {
	asked := w.route
	if w.anyScope && r.scope == unix.RT_SCOPE_UNIVERSE {
		asked.scope = r.scope
	}
	if !r.managed() {
		asked.extra, asked.tos, asked.kind, asked.table = r.extra, r.tos, r.kind, r.table
		if w.anyMetric {
			asked.metric = r.metric
		}
		if asked.source == "" {
			asked.source = r.source
		}
		if asked.mtu == 0 {
			asked.mtu = r.mtu
		}
	}
	return asked.same(r)
}

// SetRoutes makes list the routes of both families in the main table, besides
// those that the kernel makes by itself. Routes that are there already are not
// touched. Several IPv4 routes, or IPv6 routes with gateways, to one destination
// with one metric are one route with several gateways. Where a route is at fault
// the error is about its place in the list; one that the kernel refuses is a
// *RouteError too, and then the routes are what they were.
func (n *Network) SetRoutes(ctx context.Context, list []Route) error {
	return n.change(ctx, func(s *session) error {
		links, err := s.links()
		if err != nil {
			return err
		}
		want, err := resolveRoutes(links, list)
		if err != nil {
			return err
		}
		have, err := s.mainRoutes(links)
		if err != nil {
			return err
		}
		add, remove, err := compareRoutes(have, want)
		if err != nil {
			return err
		}
		if failed := s.replaceRoutes(ctx, links, add, remove); failed != nil {
			failed.Restore = s.restoreRoutes(links, managed(have))
			return failed.fault()
		}
		return nil
	})
}

// resolveRoutes checks the routes against the devices.
func resolveRoutes(links []*link, list []Route) ([]*wanted, error) {
	var want []*wanted
	for i := range list {
		r := &list[i]
		l, err := deviceOf(links, i, r.Device)
		if err != nil {
			return nil, err
		}
		w := &wanted{index: i, anyMetric: r.Metric == 0, route: route{
			dst: r.Dst, hops: []hop{{gateway: r.Gateway, index: l.index, onlink: r.Onlink}}, source: r.Source,
			scope: r.Scope, kind: unix.RTN_UNICAST, protocol: unix.RTPROT_STATIC, table: unix.RT_TABLE_MAIN,
			metric: r.Metric, mtu: r.MTU,
		}}
		switch {
		case r.Dst.Addr.Is6():
			w.scope = unix.RT_SCOPE_UNIVERSE
			if r.Metric == 0 {
				w.metric = metric6
			}
		case r.Gateway == "" && r.Scope == unix.RT_SCOPE_UNIVERSE:
			w.scope, w.anyScope = unix.RT_SCOPE_LINK, true
		}
		want = append(want, w)
	}
	return want, nil
}

// compareRoutes returns the routes that are missing and those that are not to be
// there.
func compareRoutes(have []*route, want []*wanted) (add []*wanted, remove []*route, err error) {
	// To look the routes to a destination up at once, since there may be many.
	at := make(map[Prefix][]*route, len(have))
	for _, r := range have {
		at[r.dst] = append(at[r.dst], r)
	}
	// The kernel's own are one by one, so they are left out before others are
	// put together.
	own := func(w *wanted, r *route) bool { return !r.managed() && w.is(r) }
	want = without(want, at, own)
	if want, err = group(want); err != nil {
		return nil, nil, err
	}
	keep := make(map[*route]bool)
	add = without(want, at, func(w *wanted, r *route) bool {
		if !r.managed() || keep[r] || !w.is(r) {
			return false
		}
		keep[r] = true
		return true
	})
	for _, r := range managed(have) {
		if !keep[r] {
			remove = append(remove, r)
		}
	}
	return add, remove, nil
}

// without returns the wanted routes that do not match one that is there.
//
//go:noinline
func without(want []*wanted, at map[Prefix][]*route, match func(*wanted, *route) bool) (rest []*wanted) {
next:
	for _, w := range want {
		for _, r := range at[w.dst] {
			if match(w, r) {
				continue next
			}
		}
		rest = append(rest, w)
	}
	return rest
}

// group makes one of routes that are one to the kernel, and drops repetitions.
func group(list []*wanted) (groups []*wanted, err error) {
	type key struct {
		dst    Prefix
		metric uint32
		direct int // IPv6 routes without a gateway are apart, by device
	}
	first := make(map[key]*wanted, len(list))
	for _, w := range list {
		k := key{dst: w.dst, metric: w.metric}
		if w.dst.Addr.Is6() && w.direct() {
			k.direct = w.hops[0].index
		}
		g := first[k]
		if g == nil {
			first[k] = w
			groups = append(groups, w)
			continue
		}
		if g.source != w.source || g.mtu != w.mtu || g.scope != w.scope {
			return nil, invalid(nth(w.index, "dest"), w.dst.String(), "is that of another route too, with the same metric and another source, scope or mtu")
		}
		if !hasHop(g.hops, w.hops[0]) {
			g.hops = append(g.hops, w.hops[0])
		}
	}
	return groups, nil
}

// replaceRoutes removes routes and then adds others, those first by which
// gateways are reached.
func (s *session) replaceRoutes(ctx context.Context, links []*link, add []*wanted, remove []*route) *RouteError {
	for _, r := range remove {
		err := ctx.Err()
		if err == nil {
			err = s.deleteRoute(r)
		}
		if err != nil {
			return &RouteError{Index: -1, Route: r.describe(links), Err: err}
		}
	}
	for _, direct := range [...]bool{true, false} {
		for _, w := range add {
			if w.direct() != direct {
				continue
			}
			err := ctx.Err()
			if err == nil {
				err = s.addRoute(&w.route)
			}
			if err != nil {
				return &RouteError{Index: w.index, Route: w.describe(links), Err: err}
			}
		}
	}
	return nil
}

// restoreRoutes makes the routes what they were, apart from the kernel's own.
func (s *session) restoreRoutes(links []*link, had []*route) error {
	has, err := s.mainRoutes(links)
	if err != nil {
		return err
	}
	for _, r := range managed(has) {
		if !hasRoute(had, r) {
			err = join(err, s.deleteRoute(r))
		}
	}
	return join(err, s.restoreMissing(links, had, has))
}
