package netdev

import (
	"encoding/binary"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"

	"kata/guest/network/netlink"
	"kata/lib/fmt"
)

// rtaNextHop is RTA_NH_ID, which x/sys/unix does not have.
const rtaNextHop = 30

// hop is where a route sends packets to.
type hop struct {
	gateway Addr // none: the destination is on the link itself
	index   int  // of the device
	onlink  bool
	weight  uint8 // less one
}

// route is a route as the kernel describes it, or is to have it.
type route struct {
	dst      Prefix
	hops     []hop
	source   Addr
	scope    uint8
	kind     uint8 // RTN_…
	protocol uint8 // RTPROT_…
	tos      uint8
	table    uint32
	metric   uint32
	mtu      uint32
	cloned   bool
	// extra are attributes that have no field here, as they are encoded.
	extra string
	raw   []byte // the message
}

// same reports whether two routes are the same to packets, whoever made them.
func (r *route) same(other *route) bool {
	return r.dst == other.dst && r.source == other.source && r.scope == other.scope && r.kind == other.kind &&
		r.tos == other.tos && r.table == other.table && r.metric == other.metric && r.mtu == other.mtu &&
		r.extra == other.extra && sameHops(r.hops, other.hops)
}

// sameHops reports whether two routes have the same hops in any order.
//
//go:noinline
func sameHops(a, b []hop) bool {
	for _, h := range a {
		if !hasHop(b, h) {
			return false
		}
	}
	return len(a) == len(b)
}

// hasHop is slices.Contains, which would be inlined.
//
//go:noinline
func hasHop(list []hop, h hop) bool { return slices.Contains(list, h) }

// direct reports whether all hops are on the link itself.
//
//go:noinline
func (r *route) direct() bool {
	for _, h := range r.hops {
		if h.gateway != "" {
			return false
		}
	}
	return true
}

// on reports whether a hop is on the device with a number.
func (r *route) on(index int) bool {
	for _, h := range r.hops {
		if h.index == index {
			return true
		}
	}
	return false
}

// describe describes the route as ip route does.
func (r *route) describe(links []*link) string {
	text := r.dst.String()
	for _, h := range r.hops {
		if h.gateway != "" {
			text += " via " + h.gateway.String()
		}
		if l := byIndex(links, h.index); l != nil {
			text += " dev " + l.name
		}
		if h.onlink {
			text += " onlink"
		}
	}
	if r.source != "" {
		text += " src " + r.source.String()
	}
	if r.metric != 0 {
		text += " metric " + strconv.FormatUint(uint64(r.metric), 10)
	}
	return text
}

// routes returns the routes of both families, of all tables.
func (s *session) routes() ([]*route, error) {
	return list(s, "routes", unix.RTM_GETROUTE, families(unix.SizeofRtMsg), parseRoute)
}

func parseRoute(m *netlink.Message) (*route, error) {
	r := &route{raw: m.Body}
	attrs := m.Attributes(unix.SizeofRtMsg)
	if err := attrs.Err(); err != nil {
		return r, err
	}
	// struct rtmsg
	b := m.Body
	flags := binary.NativeEndian.Uint32(b[8:])
	r.dst = Default(b[0] == unix.AF_INET6)
	r.dst.Bits = b[1]
	r.tos, r.table, r.protocol, r.scope, r.kind = b[3], uint32(b[4]), b[5], b[6], b[7]
	r.cloned = flags&unix.RTM_F_CLONED != 0
	only := hop{onlink: flags&unix.RTNH_F_ONLINK != 0}
	for attrs.Next() {
		switch kind := attrs.Type(); kind {
		case unix.RTA_DST:
			r.dst.Addr = AddrOf(attrs.Bytes())
		case unix.RTA_GATEWAY:
			only.gateway = AddrOf(attrs.Bytes())
		case unix.RTA_OIF:
			only.index = int(int32(attrs.Uint32()))
		case unix.RTA_PREFSRC:
			r.source = AddrOf(attrs.Bytes())
		case unix.RTA_PRIORITY:
			r.metric = attrs.Uint32()
		case unix.RTA_TABLE:
			r.table = attrs.Uint32()
		case unix.RTA_METRICS:
			r.parseMetrics(attrs.Bytes())
		case unix.RTA_MULTIPATH:
			if err := r.parseHops(attrs.Bytes()); err != nil {
				return r, err
			}
		case unix.RTA_CACHEINFO: // statistics
		case unix.RTA_PREF:
			if b := attrs.Bytes(); len(b) != 1 || b[0] != 0 {
				r.keep(kind, b)
			}
		default:
			r.keep(kind, attrs.Bytes())
		}
	}
	if only.index != 0 && len(r.hops) == 0 {
		r.hops = []hop{only}
	}
	return r, attrs.Err()
}

// keep adds an attribute to extra.
//
//go:noinline
func (r *route) keep(kind uint16, value []byte) {
	r.extra += string(append(binary.NativeEndian.AppendUint16(nil, kind), value...)) + "\x00"
}

func (r *route) parseMetrics(b []byte) {
	for metrics := netlink.ParseAttributes(b); metrics.Next(); {
		if metrics.Type() == unix.RTAX_MTU {
			r.mtu = metrics.Uint32()
		} else {
			r.keep(1<<15|metrics.Type(), metrics.Bytes())
		}
	}
}

// parseHops parses an array of struct rtnexthop, each with attributes.
func (r *route) parseHops(b []byte) error {
	for len(b) > 0 {
		length := len(b) + 1
		if len(b) >= unix.SizeofRtNexthop {
			length = int(binary.NativeEndian.Uint16(b))
		}
		if length < unix.SizeofRtNexthop || length > len(b) {
			return fmt.Errorf("%w: hop of a route in %d bytes", netlink.ErrMalformed, len(b))
		}
		h := hop{onlink: b[2]&unix.RTNH_F_ONLINK != 0, weight: b[3], index: int(int32(binary.NativeEndian.Uint32(b[4:])))}
		attrs := netlink.ParseAttributes(b[unix.SizeofRtNexthop:length])
		for attrs.Next() {
			if attrs.Type() == unix.RTA_GATEWAY {
				h.gateway = AddrOf(attrs.Bytes())
			} else {
				r.keep(attrs.Type(), attrs.Bytes())
			}
		}
		if err := attrs.Err(); err != nil {
			return err
		}
		r.hops = append(r.hops, h)
		b = b[min((length+3)&^3, len(b)):]
	}
	return nil
}

// addRoute adds a route, before others to the same destination.
func (s *session) addRoute(r *route) error {
	request := routeRequest(unix.RTM_NEWROUTE, unix.NLM_F_CREATE, r)
	request.Uint32(unix.RTA_TABLE, r.table)
	if r.dst.Bits > 0 {
		request.Octets(unix.RTA_DST, string(r.dst.Addr))
	}
	if r.metric != 0 {
		request.Uint32(unix.RTA_PRIORITY, r.metric)
	}
	if r.source != "" {
		request.Octets(unix.RTA_PREFSRC, string(r.source))
	}
	if r.mtu != 0 {
		metrics := request.Begin(unix.RTA_METRICS)
		request.Uint32(unix.RTAX_MTU, r.mtu)
		request.End(metrics)
	}
	several := len(r.hops) > 1
	at := 0
	if several {
		at = request.Begin(unix.RTA_MULTIPATH)
	}
	for i := range r.hops {
		h, structure := &r.hops[i], 0
		if several {
			structure = request.BeginStruct(h.encode())
		} else {
			request.Uint32(unix.RTA_OIF, uint32(h.index))
		}
		if h.gateway != "" {
			request.Octets(unix.RTA_GATEWAY, string(h.gateway))
		}
		if several {
			request.End(structure)
		}
	}
	if several {
		request.End(at)
	}
	return s.conn.Do(request)
}

// encode returns the hop's struct rtnexthop.
func (h *hop) encode() []byte {
	b := []byte{0, 0, 0, h.weight}
	if h.onlink {
		b[2] = unix.RTNH_F_ONLINK
	}
	return binary.NativeEndian.AppendUint32(b, uint32(h.index))
}

// routeRequest returns a request about a route, with its fixed part.
func routeRequest(kind, flags uint16, r *route) *netlink.Request {
	// struct rtmsg
	b := append(make([]byte, 0, 96), r.dst.Addr.family(), r.dst.Bits, 0, r.tos, 0, r.protocol, r.scope, r.kind)
	if r.table < 256 {
		b[4] = uint8(r.table)
	}
	var onlink uint32
	if len(r.hops) == 1 && r.hops[0].onlink {
		onlink = unix.RTNH_F_ONLINK
	}
	return netlink.NewRequest(kind, flags, binary.NativeEndian.AppendUint32(b, onlink))
}

// deleteRoute deletes a route that was listed; one that has gone is no error.
func (s *session) deleteRoute(r *route) error {
	request := routeRequest(unix.RTM_DELROUTE, 0, r)
	r.copyAttributes(request)
	if err := s.conn.Do(request); !isErrno(err, unix.ESRCH) {
		return err
	}
	return nil
}

// restoreRoute adds a route as it was listed, behind others to the same
// destination; one that is there is no error.
func (s *session) restoreRoute(r *route) error {
	request := routeRequest(unix.RTM_NEWROUTE, unix.NLM_F_CREATE|unix.NLM_F_APPEND, r)
	r.copyAttributes(request)
	if err := s.conn.Do(request); !isErrno(err, unix.EEXIST) {
		return err
	}
	return nil
}

// copyAttributes appends the attributes with which a route was listed, without
// those that the kernel only tells.
func (r *route) copyAttributes(request *netlink.Request) {
	object := false // the hops are an object of their own
	for attrs := netlink.ParseAttributes(r.raw[unix.SizeofRtMsg:]); attrs.Next(); {
		object = object || attrs.Type() == rtaNextHop
	}
	for attrs := netlink.ParseAttributes(r.raw[unix.SizeofRtMsg:]); attrs.Next(); {
		switch attrs.Type() {
		case unix.RTA_CACHEINFO:
		case unix.RTA_OIF, unix.RTA_GATEWAY, unix.RTA_VIA:
			if !object {
				request.Bytes(attrs.Type(), attrs.Bytes())
			}
		case unix.RTA_MULTIPATH:
			if !object {
				request.Bytes(attrs.Type(), settable(attrs.Bytes()))
			}
		default:
			request.Bytes(attrs.Type(), attrs.Bytes())
		}
	}
}

// settable returns hops without the flags that the kernel only tells, such as
// that a device is down. parseHops has checked them.
func settable(hops []byte) []byte {
	hops = slices.Clone(hops)
	for b := hops; len(b) >= unix.SizeofRtNexthop; {
		b[2] &= unix.RTNH_F_ONLINK
		b = b[min((int(binary.NativeEndian.Uint16(b))+3)&^3, len(b)):]
	}
	return hops
}
