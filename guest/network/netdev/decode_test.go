package netdev

import (
	"testing"

	"golang.org/x/sys/unix"

	"kata/guest/network/netlink"
)

// routeMessage is a message with everything that a route can have.
func routeMessage() []byte {
	r := route{dst: Prefix{Default(false).Addr, 24}, kind: unix.RTN_UNICAST}
	request := routeRequest(unix.RTM_NEWROUTE, 0, &r)
	request.Bytes(unix.RTA_DST, []byte{10, 0, 0, 0})
	request.Uint32(unix.RTA_TABLE, 254)
	metrics := request.Begin(unix.RTA_METRICS)
	request.Uint32(unix.RTAX_MTU, 1400)
	request.End(metrics)
	hops := request.Begin(unix.RTA_MULTIPATH)
	for _, h := range []hop{{index: 1}, {index: 2, onlink: true, weight: 3}} {
		structure := request.BeginStruct(h.encode())
		request.Bytes(unix.RTA_GATEWAY, []byte{10, 0, 0, 1})
		request.End(structure)
	}
	request.End(hops)
	return request.Body()
}

func TestParseRoute(t *testing.T) {
	r, err := parseRoute(&netlink.Message{Type: unix.RTM_NEWROUTE, Body: routeMessage()})
	if err != nil {
		t.Fatal(err)
	}
	gateway := ParseAddr("10.0.0.1")
	want := route{
		dst: ParsePrefix("10.0.0.0/24"), kind: unix.RTN_UNICAST, table: 254, mtu: 1400,
		hops: []hop{{gateway: gateway, index: 1}, {gateway: gateway, index: 2, onlink: true, weight: 3}},
	}
	if !r.same(&want) {
		t.Errorf("it is %+v, want %+v", r, want)
	}
}

// FuzzDecode feeds the decoders with what the kernel would never send.
func FuzzDecode(f *testing.F) {
	f.Add(routeMessage())
	f.Add(addressRequest(unix.RTM_NEWADDR, 1, Default(true), 0).Body())
	f.Add(linkRequest(unix.RTM_NEWLINK, 1, 0, 0).Body())
	f.Add((&neighbour{addr: Default(true).Addr}).request(unix.RTM_NEWNEIGH, 0).Body())
	f.Fuzz(func(t *testing.T, b []byte) {
		m := &netlink.Message{Body: b}
		if r, err := parseRoute(m); err == nil {
			request := routeRequest(unix.RTM_NEWROUTE, 0, r)
			r.copyAttributes(request)
			_ = r.describe(nil)
			if !r.same(r) {
				t.Errorf("%+v is not itself", r)
			}
		}
		_, _ = parseAddress(m, []*link{{index: 1}})
		_, _ = parseLink(m)
		_, _ = parseNeighbour(m)
	})
}
