//go:build vmtest

package netdev

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"kata/guest/fault"
	"kata/test/netlab"
)

// routed makes two devices with addresses.
func routed(t *testing.T) *machine {
	m := newMachine(t)
	netlab.Dummy(t, "eth0", macA)
	netlab.Dummy(t, "eth1", macB)
	m.setAll(macA, Settings{Addresses: m.prefixes("10.1.0.1/24", "10.1.0.2/24", "fd01::1/64", "fe80::1/64")})
	m.setAll(macB, Settings{Addresses: m.prefixes("10.2.0.1/24", "fd02::1/64", "fe80::2/64")})
	return m
}

func (m *machine) dst(text string) Prefix {
	m.Helper()
	return m.prefixes(text)[0]
}

// routeText is what ip says of the routes of the main tables.
func (m *machine) routeText() string {
	m.Helper()
	return netlab.IP(m, "route") + netlab.IP(m, "-6", "route")
}

// rawRoutes are all routes as the kernel sends them, without ages.
func (m *machine) rawRoutes() []string {
	m.Helper()
	all, err := m.s.routes()
	if err != nil {
		m.Fatal(err)
	}
	var list []string
	for _, r := range all {
		r.raw = nil
		list = append(list, fmt.Sprintf("%+v", *r))
	}
	return list
}

// routes are those that Routes lists.
func (m *machine) routes() (list []Route) {
	m.Helper()
	all, err := m.net.Routes()
	if err != nil {
		m.Fatal(err)
	}
	for _, r := range all {
		list = append(list, *r)
	}
	return list
}

func (m *machine) setRoutes(list ...Route) {
	m.Helper()
	if err := m.net.SetRoutes(m.Context(), list); err != nil {
		m.Fatal(err)
	}
}

// variety is one route of each sort.
func (m *machine) variety() []Route {
	return []Route{
		// Those with gateways first, although they need the others.
		{Dst: Default(false), Gateway: m.addr("10.1.0.254"), Device: "eth0", Source: m.addr("10.1.0.2")},
		{Dst: Default(false), Gateway: m.addr("10.2.0.254"), Device: "eth1", Metric: 100},
		{Dst: m.dst("10.20.0.0/16"), Gateway: m.addr("10.10.0.1"), Device: "eth0"},
		{Dst: m.dst("10.30.0.0/16"), Gateway: m.addr("192.0.2.1"), Device: "eth1", Onlink: true, MTU: 1300, Metric: 9},
		{Dst: m.dst("10.10.0.0/16"), Device: "eth0", Scope: unix.RT_SCOPE_LINK},
		{Dst: m.dst("10.40.0.1/32"), Device: "eth1", Scope: 200},
		{Dst: Default(true), Gateway: m.addr("fe80::99"), Device: "eth0"},
		{Dst: Default(true), Gateway: m.addr("fd02::99"), Device: "eth1", Metric: 2000, MTU: 1400},
		{Dst: m.dst("fd20::/64"), Gateway: m.addr("fd10::1"), Device: "eth0", Source: m.addr("fd01::1")},
		{Dst: m.dst("fd10::/64"), Device: "eth0"},
		{Dst: m.dst("fd30::/48"), Gateway: m.addr("fd99::1"), Device: "eth1", Onlink: true},
	}
}

func TestRoutesAreSet(t *testing.T) {
	m := routed(t)
	m.setRoutes(m.variety()...)
	text := m.routeText()
	for _, part := range []string{
		"default via 10.1.0.254 dev eth0  src 10.1.0.2 \n",
		"default via 10.2.0.254 dev eth1  metric 100 \n",
		"10.10.0.0/16 dev eth0 scope link \n",
		"10.20.0.0/16 via 10.10.0.1 dev eth0 \n",
		"10.30.0.0/16 via 192.0.2.1 dev eth1  metric 9 ",
		"10.40.0.1 dev eth1 scope site \n",
		"10.1.0.0/24 dev eth0 scope link  src 10.1.0.1 \n",
		"default via fe80::99 dev eth0  metric 1024 ",
		"default via fd02::99 dev eth1  metric 2000 ",
		"fd10::/64 dev eth0  metric 1024 ",
		"fd20::/64 via fd10::1 dev eth0  src fd01::1  metric 1024 ",
		"fd30::/48 via fd99::1 dev eth1  metric 1024 ",
	} {
		if !strings.Contains(text, part) {
			t.Errorf("ip route does not say %q", part)
		}
	}
	if t.Failed() {
		t.Log(text)
	}
	list := m.routes()
	for _, want := range m.variety() {
		switch {
		case want.Dst.Addr.Is6() && want.Metric == 0:
			want.Metric = 1024
		case !want.Dst.Addr.Is6() && want.Gateway == "" && want.Scope == 0:
			want.Scope = unix.RT_SCOPE_LINK
		}
		if !slices.Contains(list, want) {
			t.Errorf("%+v is not listed", want)
		}
	}
	// The kernel's own are two of IPv4, and of IPv6 two with the link-local ones.
	if len(list) != len(m.variety())+6 {
		t.Errorf("%d routes are listed: %+v", len(list), list)
	}
}

func TestRoutesThatAreThereAreNotTouched(t *testing.T) {
	m := routed(t)
	m.setRoutes(m.variety()...)
	mon, before := netlab.Listen(t), m.rawRoutes()
	reversed := m.variety()
	slices.Reverse(reversed)
	listed := m.routes()
	for name, list := range map[string][]Route{
		"the same": m.variety(), "another order": reversed, "what is listed": listed, "each twice": append(m.variety(), reversed...),
	} {
		m.setRoutes(list...)
		if n := mon.Drain(); len(n) != 0 || !slices.Equal(before, m.rawRoutes()) {
			t.Errorf("%s: %d notifications", name, len(n))
		}
	}
}

func TestOnlyWhatDiffersIsChanged(t *testing.T) {
	m := routed(t)
	m.setRoutes(m.variety()...)
	mon := netlab.Listen(t)
	list := m.variety()
	list[2].Metric = 5                 // changed
	list = slices.Delete(list, 10, 11) // gone
	list = append(list, Route{Dst: m.dst("10.50.0.0/16"), Device: "eth1"})
	m.setRoutes(list...)
	var added, deleted int
	for _, n := range mon.Drain() {
		switch n.Type {
		case unix.RTM_NEWROUTE:
			added++
		case unix.RTM_DELROUTE:
			deleted++
		default:
			t.Errorf("notification of kind %d", n.Type)
		}
	}
	if added != 2 || deleted != 2 {
		t.Errorf("%d routes added, %d deleted", added, deleted)
	}
	text := m.routeText()
	if !strings.Contains(text, "10.20.0.0/16 via 10.10.0.1 dev eth0  metric 5") || strings.Contains(text, "fd30::") || !strings.Contains(text, "10.50.0.0/16 dev eth1") {
		t.Error(text)
	}
}

func TestNoRoutesLeaveTheKernelsOwn(t *testing.T) {
	m := routed(t)
	netlab.IP(m, "route", "add", "10.77.0.0/16", "dev", "eth0", "table", "77")
	netlab.IP(m, "route", "add", "blackhole", "10.78.0.0/16")
	before := m.rawRoutes()
	m.setRoutes(m.variety()...)
	netlab.IP(m, "route", "add", "10.88.0.0/16", "dev", "eth0", "proto", "boot")
	m.setRoutes()
	if after := m.rawRoutes(); !slices.Equal(before, after) {
		t.Errorf("now:\n%s\nbefore:\n%s", strings.Join(after, "\n"), strings.Join(before, "\n"))
	}
}

// strange makes routes that SetRoutes cannot say, all of which it replaces.
func (m *machine) strange() {
	m.Helper()
	odd := route{dst: m.dst("10.60.0.0/16"), protocol: unix.RTPROT_BIRD, kind: unix.RTN_UNICAST, tos: 8, metric: 3}
	r := routeRequest(unix.RTM_NEWROUTE, unix.NLM_F_CREATE|unix.NLM_F_EXCL, &odd)
	r.Bytes(unix.RTA_DST, []byte(odd.dst.Addr))
	r.Bytes(unix.RTA_GATEWAY, []byte(m.addr("10.1.0.60")))
	r.Uint32(unix.RTA_PRIORITY, odd.metric)
	r.Uint32(unix.RTA_MARK, 0)
	metrics := r.Begin(unix.RTA_METRICS)
	r.Uint32(unix.RTAX_WINDOW, 4000)
	r.Uint32(unix.RTAX_MTU, 1333)
	r.End(metrics)
	if err := m.s.conn.Do(r); err != nil {
		m.Fatal(err)
	}
	netlab.IP(m, "route", "append", "10.61.0.0/16", "via", "10.1.0.61")
	netlab.IP(m, "route", "append", "10.61.0.0/16", "via", "10.1.0.62")
	netlab.IP(m, "route", "append", "10.61.0.0/16", "via", "10.1.0.63")
	netlab.IP(m, "-6", "route", "add", "fd60::/64", "via", "fd01::60", "metric", "3")
	netlab.IP(m, "-6", "route", "append", "fd60::/64", "via", "fd01::61", "metric", "3")
	netlab.IP(m, "-6", "route", "append", "fd60::/64", "via", "fd02::62", "metric", "3")
}

func TestARouteThatFailsIsNamedAndTheOldOnesAreBack(t *testing.T) {
	for _, tt := range []struct {
		name string
		want string
		err  error
	}{
		{"a gateway that is not reached", "10.66.0.0/16 via 203.0.113.1 dev eth0", unix.ENETUNREACH},
		{"an IPv6 gateway that is not reached", "fd66::/64 via fd77::1 dev eth1", unix.EHOSTUNREACH},
		{"a source that is not ours", "10.66.0.0/16 via 10.1.0.9 dev eth0 src 10.9.9.9", unix.EINVAL},
		{"an IPv6 source that is not ours", "fd66::/64 dev eth0 src fd09::9", unix.EINVAL},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := routed(t)
			m.setRoutes(m.variety()...)
			m.strange()
			before := m.rawRoutes()
			bad := m.route(tt.want)
			list := append([]Route{{Dst: m.dst("10.90.0.0/16"), Device: "eth0"}, {Dst: m.dst("fd90::/64"), Gateway: m.addr("fd01::9"), Device: "eth0"}}, m.variety()[3:8]...)
			list = append(list, bad, Route{Dst: m.dst("10.91.0.0/16"), Gateway: m.addr("10.1.0.9"), Device: "eth0"})
			err := m.net.SetRoutes(t.Context(), list)
			failed := (*RouteError)(nil)
			if !errors.As(err, &failed) || failed.Index != 7 || !strings.HasPrefix(failed.Route, tt.want) || !errors.Is(err, tt.err) || failed.Restore != nil {
				t.Errorf("error is %v", err)
			}
			if after := m.rawRoutes(); !slices.Equal(before, after) {
				t.Errorf("now:\n%s\nbefore:\n%s", strings.Join(after, "\n"), strings.Join(before, "\n"))
			}
		})
	}
}

// route parses what RouteError calls a route.
func (m *machine) route(text string) Route {
	m.Helper()
	words := strings.Fields(text)
	r := Route{Dst: m.dst(words[0])}
	for i := 1; i+1 < len(words); i += 2 {
		switch words[i] {
		case "via":
			r.Gateway = m.addr(words[i+1])
		case "dev":
			r.Device = words[i+1]
		case "src":
			r.Source = m.addr(words[i+1])
		}
	}
	return r
}

func TestADeviceThatIsDownFailsTheWholeSet(t *testing.T) {
	m := routed(t)
	netlab.Dummy(t, "down0", macC)
	m.setRoutes(m.variety()...)
	before := m.rawRoutes()
	for _, dst := range []string{"10.66.0.0/16", "fd66::/64"} {
		err := m.net.SetRoutes(t.Context(), []Route{{Dst: m.dst("10.90.0.0/16"), Device: "eth0"}, {Dst: m.dst(dst), Device: "down0"}})
		if !errors.Is(err, unix.ENETDOWN) || !strings.Contains(err.Error(), dst+" dev down0") {
			t.Errorf("error is %v", err)
		}
		if after := m.rawRoutes(); !slices.Equal(before, after) {
			t.Errorf("now:\n%s\nbefore:\n%s", strings.Join(after, "\n"), strings.Join(before, "\n"))
		}
	}
}

func TestACallThatIsGivenUpChangesNoRoutes(t *testing.T) {
	m := routed(t)
	m.setRoutes(m.variety()...)
	before := m.rawRoutes()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := m.net.SetRoutes(ctx, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("error is %v", err)
	}
	if !slices.Equal(before, m.rawRoutes()) {
		t.Error("the routes are others")
	}
}

func TestRoutesThatMakeNoSenseAreRefused(t *testing.T) {
	m := routed(t)
	m.setRoutes(m.variety()...)
	mon := netlab.Listen(t)
	fine := Route{Dst: m.dst("10.90.0.0/16"), Device: "eth0"}
	for name, list := range map[string][]Route{
		"device": {fine, {Dst: m.dst("10.91.0.0/16"), Device: "eth7"}},
		"Device": {fine, {Dst: m.dst("10.91.0.0/16"), Device: "lo"}},
		"dest":   {fine, {Dst: m.dst("10.90.0.0/16"), Device: "eth1", MTU: 1300}},
	} {
		err := m.net.SetRoutes(t.Context(), list)
		if invalid := (*fault.Error)(nil); !errors.As(err, &invalid) || invalid.Kind != fault.Invalid || invalid.Field != "[1]."+strings.ToLower(name) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if n := mon.Drain(); len(n) != 0 {
		t.Errorf("%d notifications", len(n))
	}
}

func TestSeveralIPv6GatewaysAreOneRoute(t *testing.T) {
	m := routed(t)
	gateway := func(via, device string) Route {
		return Route{Dst: m.dst("fd60::/64"), Gateway: m.addr(via), Device: device, Metric: 1024}
	}
	list := []Route{gateway("fd01::8", "eth0"), gateway("fd01::9", "eth0"), gateway("fd02::9", "eth1")}
	m.setRoutes(list[:1]...)
	m.setRoutes(list...)
	mon := netlab.Listen(t)
	listed := m.routes()
	for _, r := range list {
		if !slices.Contains(listed, r) {
			t.Errorf("%+v is not listed in %+v", r, listed)
		}
	}
	m.setRoutes(listed...)
	if n := mon.Drain(); len(n) != 0 {
		t.Errorf("%d notifications", len(n))
	}
	m.setRoutes(list[1:]...)
	if listed = m.routes(); slices.Contains(listed, list[0]) || !slices.Contains(listed, list[2]) {
		t.Errorf("listed are %+v", listed)
	}
}

func TestSeveralIPv4Gateways(t *testing.T) {
	m := routed(t)
	list := []Route{
		{Dst: m.dst("10.60.0.0/16"), Gateway: m.addr("10.1.0.8"), Device: "eth0"},
		{Dst: m.dst("10.60.0.0/16"), Gateway: m.addr("10.2.0.8"), Device: "eth1"},
	}
	m.setRoutes(list...)
	listed := m.routes()
	for _, hop := range list {
		if !slices.ContainsFunc(listed, func(r Route) bool { return r.Dst == hop.Dst && r.Gateway == hop.Gateway && r.Device == hop.Device }) {
			t.Errorf("no %+v among %+v", hop, listed)
		}
	}
	mon := netlab.Listen(t)
	m.setRoutes(list...)
	if n := mon.Drain(); len(n) != 0 {
		t.Errorf("the same again: %d notifications", len(n))
	}
	m.setRoutes()
	if text := netlab.IP(m, "route", "show", "10.60.0.0/16"); text != "" {
		t.Errorf("left: %q", text)
	}
}

func TestARouteOfTheKernelsDestinationWithAnotherSource(t *testing.T) {
	m := routed(t)
	r := Route{Dst: m.dst("10.1.0.0/24"), Device: "eth0", Source: m.addr("10.1.0.2")}
	m.setRoutes(r)
	if text := netlab.IP(m, "route", "get", "10.1.0.77"); !strings.Contains(text, "src 10.1.0.2") {
		t.Error(text)
	}
	mon := netlab.Listen(t)
	m.setRoutes(r)
	if n := mon.Drain(); len(n) != 0 {
		t.Errorf("%d notifications", len(n))
	}
	m.setRoutes()
	if text := netlab.IP(m, "route", "get", "10.1.0.77"); !strings.Contains(text, "src 10.1.0.1") {
		t.Error(text)
	}
}

func TestManyRoutes(t *testing.T) {
	m := routed(t)
	var list []Route
	for i := range 1500 {
		list = append(list, Route{Dst: m.dst(fmt.Sprintf("10.%d.%d.0/24", 100+i/250, i%250)), Gateway: m.addr("10.1.0.9"), Device: "eth0"})
	}
	m.setRoutes(list...)
	listed := m.routes()
	if len(listed) != len(list)+6 {
		t.Fatalf("%d are listed", len(listed))
	}
	mon := netlab.Listen(t)
	m.setRoutes(listed...)
	if n := mon.Drain(); len(n) != 0 {
		t.Errorf("%d notifications", len(n))
	}
	m.setRoutes()
}
