package netdev

import (
	"context"
	"errors"
	"slices"

	"golang.org/x/sys/unix"

	"kata/api/fmt"
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

// Routes returns the routes of both families in the main table, one for each
// gateway where a route has several.
func (n *Network) Routes() (list []Route, err error) {
	err = n.look(func(s *session) error {
		links, err := s.links(false)
		if err != nil {
			return err
		}
		routes, err := s.mainRoutes(links)
		if err != nil {
			return err
		}
		for _, r := range routes {
			for _, h := range r.hops {
				list = append(list, Route{
					Dst: r.dst, Gateway: h.gateway, Device: byIndex(links, h.index).name, Source: r.source,
					Scope: r.scope, Metric: r.metric, MTU: r.mtu, Onlink: h.onlink,
				})
			}
		}
		return nil
	})
	return list, err
}

// mainRoutes returns the routes of the main table that lead to a device other
// than the loopback device.
func (s *session) mainRoutes(links []link) ([]route, error) {
	all, err := s.routes()
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(all, func(r route) bool {
		for _, h := range r.hops {
			if l := byIndex(links, h.index); l == nil || l.loopback() {
				return true
			}
		}
		return len(r.hops) == 0 || r.table != unix.RT_TABLE_MAIN || r.kind != unix.RTN_UNICAST || r.cloned
	}), nil
}

// managed reports whether a route is one of those that SetRoutes replaces: not
// those that the kernel makes of addresses and of what routers announce.
func (r *route) managed() bool {
	return r.protocol != unix.RTPROT_KERNEL && r.protocol != unix.RTPROT_RA && r.protocol != unix.RTPROT_REDIRECT
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
func (w *wanted) is(r *route) bool {
	asked := w.route
	if w.anyScope && r.scope == unix.RT_SCOPE_UNIVERSE {
		asked.scope = r.scope
	}
	if r.managed() {
		return asked.same(r)
	}
	return asked.dst == r.dst && sameHops(asked.hops, r.hops) && asked.scope == r.scope &&
		(w.anyMetric || asked.metric == r.metric) && (!asked.source.IsValid() || asked.source == r.source) &&
		(asked.mtu == 0 || asked.mtu == r.mtu)
}

// SetRoutes makes list the routes of both families in the main table, besides
// those that the kernel makes by itself. Routes that are there already are not
// touched. Several IPv4 routes, or IPv6 routes with gateways, to one destination
// with one metric are one route with several gateways. An error other than an
// InvalidError is a *RouteError where a route is at fault, and then the routes
// are what they were.
func (n *Network) SetRoutes(ctx context.Context, list []Route) error {
	return n.change(ctx, func(s *session) error {
		links, err := s.links(false)
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
		return s.replaceRoutes(ctx, links, have, want)
	})
}

// resolveRoutes checks the routes against the devices.
func resolveRoutes(links []link, list []Route) ([]wanted, error) {
	want := make([]wanted, 0, len(list))
	for i, r := range list {
		l := byName(links, r.Device)
		switch {
		case l == nil:
			return nil, &InvalidError{i, "device", r.Device, "is not a network device"}
		case l.loopback():
			return nil, &InvalidError{i, "device", r.Device, "is the loopback device, whose routes stay as they are"}
		}
		w := wanted{index: i, anyMetric: r.Metric == 0, route: route{
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
		case !r.Gateway.IsValid() && r.Scope == unix.RT_SCOPE_UNIVERSE:
			w.scope, w.anyScope = unix.RT_SCOPE_LINK, true
		}
		want = append(want, w)
	}
	return want, nil
}

// replaceRoutes changes have into want, or back.
func (s *session) replaceRoutes(ctx context.Context, links []link, have []route, want []wanted) error {
	// To look the routes to a destination up at once, since there may be many.
	at := make(map[Prefix][]*route, len(have))
	for i := range have {
		at[have[i].dst] = append(at[have[i].dst], &have[i])
	}
	want = slices.DeleteFunc(want, func(w wanted) bool {
		return slices.ContainsFunc(at[w.dst], func(r *route) bool { return !r.managed() && w.is(r) })
	})
	want, err := group(want)
	if err != nil {
		return err
	}
	keep := make(map[*route]bool)
	want = slices.DeleteFunc(want, func(w wanted) bool {
		for _, r := range at[w.dst] {
			if r.managed() && !keep[r] && w.is(r) {
				keep[r] = true
				return true
			}
		}
		return false
	})
	failed := s.deleteRoutes(ctx, links, have, keep)
	if failed == nil {
		failed = s.addRoutes(ctx, links, want)
	}
	if failed == nil {
		return nil
	}
	failed.Restore = s.restoreRoutes(links, have)
	return failed
}

// group makes one of routes that are one to the kernel, and drops repetitions.
func group(list []wanted) ([]wanted, error) {
	type key struct {
		dst    Prefix
		metric uint32
		direct int // IPv6 routes without a gateway are apart, by device
	}
	first := make(map[key]int, len(list))
	var groups []wanted
	for _, w := range list {
		k := key{dst: w.dst, metric: w.metric}
		if w.dst.Addr.Is6() && w.direct() {
			k.direct = w.hops[0].index
		}
		i, ok := first[k]
		if !ok {
			first[k] = len(groups)
			groups = append(groups, w)
			continue
		}
		g := &groups[i]
		if g.source != w.source || g.mtu != w.mtu || g.scope != w.scope {
			return nil, &InvalidError{w.index, "dest", w.dst.String(), "is that of another route too, with the same metric and another source, scope or mtu"}
		}
		if !slices.Contains(g.hops, w.hops[0]) {
			g.hops = append(g.hops, w.hops[0])
		}
	}
	return groups, nil
}

func (s *session) deleteRoutes(ctx context.Context, links []link, have []route, keep map[*route]bool) *RouteError {
	for i := range have {
		r := &have[i]
		if !r.managed() || keep[r] {
			continue
		}
		err := ctx.Err()
		if err == nil {
			err = s.deleteRoute(r)
		}
		if err != nil {
			return &RouteError{Index: -1, Route: r.String(links), Err: err}
		}
	}
	return nil
}

// addRoutes adds routes, those first by which gateways are reached.
func (s *session) addRoutes(ctx context.Context, links []link, want []wanted) *RouteError {
	for _, direct := range [...]bool{true, false} {
		for i := range want {
			w := &want[i]
			if w.direct() != direct {
				continue
			}
			err := ctx.Err()
			if err == nil {
				err = s.addRoute(&w.route)
			}
			if err != nil {
				return &RouteError{Index: w.index, Route: w.String(links), Err: err}
			}
		}
	}
	return nil
}

// restoreRoutes makes the routes what they were.
func (s *session) restoreRoutes(links []link, had []route) error {
	have, err := s.mainRoutes(links)
	if err != nil {
		return err
	}
	var errs []error
	for i := range have {
		if r := &have[i]; r.managed() && !hasRoute(had, r) {
			if err := s.deleteRoute(r); err != nil {
				errs = append(errs, fmt.Errorf("delete %s: %w", r.String(links), err))
			}
		}
	}
	for _, direct := range [...]bool{true, false} {
		for i := range had {
			r := &had[i]
			if !r.managed() || r.direct() != direct || hasRoute(have, r) {
				continue
			}
			if err := s.restoreRoute(r); err != nil {
				errs = append(errs, fmt.Errorf("add %s: %w", r.String(links), err))
			}
		}
	}
	return errors.Join(errs...)
}
