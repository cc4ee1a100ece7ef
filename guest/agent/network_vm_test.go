//go:build vmtest

package agent

import (
	"context"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"kata/api/agentpb"
	"kata/api/ttrpc"
	"kata/api/typespb"
	"kata/guest/agent/log"
	"kata/guest/machine/device"
	"kata/guest/network/netdev"
	"kata/test/netlab"
)

// The calls of the network over ttRPC, in the network of the VM.

const (
	mac0 = "02:00:00:00:aa:00"
	mac1 = "02:00:00:00:aa:01"
)

// networkAgent serves the agent's calls on a pipe.
func networkAgent(t *testing.T, init bool, timeout time.Duration) *agentpb.AgentServiceClient {
	t.Helper()
	server := ttrpc.NewServer(ttrpc.ServerOptions{Code: Coded})
	logger := log.New(os.Stderr, log.LevelError)
	New(Config{Init: init, Log: logger, Devices: device.NewFinder(timeout)}).Register(server)
	near, far := net.Pipe()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.ServeConn(ctx, far)
	}()
	client := ttrpc.NewClient(near)
	t.Cleanup(func() {
		_ = client.Close()
		cancel()
		<-done
	})
	return agentpb.NewAgentServiceClient(client)
}

// pod makes the devices of a pod.
func pod(t *testing.T) {
	t.Helper()
	netlab.Dummy(t, "ethA", mac0)
	netlab.Dummy(t, "ethB", mac1)
}

// upstreamInterface is a request as upstream's shim sends it.
func upstreamInterface(name, mac string, addresses ...*typespb.IPAddress) *agentpb.UpdateInterfaceRequest {
	return &agentpb.UpdateInterfaceRequest{Interface: &typespb.Interface{
		Device: name, Name: name, IPAddresses: addresses, Mtu: 1450, HwAddr: strings.ToUpper(mac), Type: "veth",
	}}
}

func ip4(address, mask string) *typespb.IPAddress {
	return &typespb.IPAddress{Address: address, Mask: mask}
}

func ip6(address, mask string) *typespb.IPAddress {
	return &typespb.IPAddress{Family: typespb.IPFamily_v6, Address: address, Mask: mask}
}

func TestAPodsNetworkIsSetUpAsUpstreamsShimDoes(t *testing.T) {
	pod(t)
	agent, ctx := networkAgent(t, true, time.Minute), t.Context()
	got, err := agent.UpdateInterface(ctx, upstreamInterface("net0", mac0, ip4("10.88.0.5", "16"), ip6("fd88::5", "64"), ip6("fe80::ff:fe00:aa00", "64")))
	if err != nil {
		t.Fatal(err)
	}
	want := &typespb.Interface{
		Device: "net0", Name: "net0", Mtu: 1450, HwAddr: mac0, Type: "dummy",
		IPAddresses: []*typespb.IPAddress{ip4("10.88.0.5", "16"), ip6("fd88::5", "64"), ip6("fe80::ff:fe00:aa00", "64")},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the answer differs: %s", diff)
	}
	// The default route before the one that its gateway needs, a default route
	// of IPv6 without its family, and a source with and without a prefix.
	routes := []*typespb.Route{
		{Gateway: "10.99.0.1", Device: "net0"},
		{Dest: "10.99.0.1/32", Device: "net0", Scope: unix.RT_SCOPE_LINK, Source: "10.88.0.5"},
		{Gateway: "fd88::1", Device: "net0", Source: "fd88::5/64"},
		{Dest: "fd99::/48", Gateway: "fe80::1", Device: "net0", Family: typespb.IPFamily_v6},
	}
	listed, err := agent.UpdateRoutes(ctx, &agentpb.UpdateRoutesRequest{Routes: &agentpb.Routes{Routes: routes}})
	if err != nil {
		t.Fatal(err)
	}
	metric := uint32(1024)
	for _, want := range []*typespb.Route{
		{Dest: "0.0.0.0/0", Gateway: "10.99.0.1", Device: "net0"},
		{Dest: "10.99.0.1/32", Device: "net0", Scope: 253, Source: "10.88.0.5"},
		{Dest: "::/0", Gateway: "fd88::1", Device: "net0", Source: "fd88::5", Family: typespb.IPFamily_v6, Metric: &metric},
		{Dest: "fd99::/48", Gateway: "fe80::1", Device: "net0", Family: typespb.IPFamily_v6, Metric: &metric},
	} {
		if !slices.ContainsFunc(listed.Routes, func(r *typespb.Route) bool { return cmp.Equal(r, want) }) {
			t.Errorf("%+v is not among the routes", want)
		}
	}
	text := netlab.IP(t, "route") + netlab.IP(t, "-6", "route")
	for _, part := range []string{"default via 10.99.0.1 dev net0", "10.99.0.1 dev net0 scope link  src 10.88.0.5", "default via fd88::1 dev net0", "fd99::/48 via fe80::1 dev net0"} {
		if !strings.Contains(text, part) {
			t.Errorf("ip route does not say %q:\n%s", part, text)
		}
	}
	_, err = agent.AddARPNeighbors(ctx, &agentpb.AddARPNeighborsRequest{Neighbors: &agentpb.ARPNeighbors{ARPNeighbors: []*typespb.ARPNeighbor{
		{ToIPAddress: ip4("10.88.0.1", ""), Device: "net0", Lladdr: "02:00:00:00:BB:01", State: unix.NUD_PERMANENT},
		{ToIPAddress: &typespb.IPAddress{Family: 10, Address: "fd88::1"}, Device: "net0", Lladdr: "02:00:00:00:BB:02", State: unix.NUD_PERMANENT},
	}}})
	if err != nil {
		t.Fatal(err)
	}
	text = netlab.IP(t, "neigh")
	for _, part := range []string{"10.88.0.1 dev net0 lladdr 02:00:00:00:bb:01", "fd88::1 dev net0 lladdr 02:00:00:00:bb:02"} {
		if !strings.Contains(text, part) {
			t.Errorf("ip neigh does not say %q:\n%s", part, text)
		}
	}
}

func TestWhatIsListedCanBeFedBack(t *testing.T) {
	pod(t)
	agent, ctx, mon := networkAgent(t, true, time.Minute), t.Context(), netlab.Listen(t)
	if _, err := agent.UpdateInterface(ctx, upstreamInterface("net0", mac0, ip4("10.88.0.5", "16"), ip6("fd88::5", "64"))); err != nil {
		t.Fatal(err)
	}
	mon.Settle(1)
	request := &agentpb.UpdateRoutesRequest{Routes: &agentpb.Routes{Routes: []*typespb.Route{
		{Gateway: "10.88.0.1", Device: "net0"}, {Dest: "10.7.0.0/16", Gateway: "10.88.0.2", Device: "net0", Flags: unix.RTNH_F_ONLINK, Mtu: 1300},
		{Dest: "fd77::/64", Gateway: "fd88::2", Device: "net0"},
	}}}
	if _, err := agent.UpdateRoutes(ctx, request); err != nil {
		t.Fatal(err)
	}
	before := netlab.State(t)
	interfaces, err := agent.ListInterfaces(ctx, &agentpb.ListInterfacesRequest{})
	if err != nil || len(interfaces.Interfaces) < 3 {
		t.Fatalf("%v, %v", interfaces, err)
	}
	for _, i := range interfaces.Interfaces {
		if i.Name == "net0" || i.Name == "lo" { // the others are down
			got, err := agent.UpdateInterface(ctx, &agentpb.UpdateInterfaceRequest{Interface: i})
			if diff := cmp.Diff(i, got); diff != "" || err != nil {
				t.Errorf("%s: %v %s", i.Name, err, diff)
			}
		}
	}
	routes, err := agent.ListRoutes(ctx, &agentpb.ListRoutesRequest{})
	if err != nil {
		t.Fatal(err)
	}
	again, err := agent.UpdateRoutes(ctx, &agentpb.UpdateRoutesRequest{Routes: routes})
	if diff := cmp.Diff(routes, again); diff != "" || err != nil {
		t.Errorf("%v %s", err, diff)
	}
	if after := netlab.State(t); after != before {
		t.Errorf("now:\n%s\nbefore:\n%s", after, before)
	}
}

func TestABadInterfaceIsNamedAndChangesNothing(t *testing.T) {
	pod(t)
	agent, before := networkAgent(t, true, 0), netlab.State(t)
	base := func(change func(*typespb.Interface)) *typespb.Interface {
		i := &typespb.Interface{Device: "net0", Name: "net0", HwAddr: mac0, Mtu: 1400, IPAddresses: []*typespb.IPAddress{ip4("10.88.0.5", "16")}}
		change(i)
		return i
	}
	address := func(a *typespb.IPAddress) *typespb.Interface {
		return base(func(i *typespb.Interface) { i.IPAddresses = append(i.IPAddresses, a) })
	}
	for _, tt := range []struct {
		i    *typespb.Interface
		want string
		code ttrpc.Code
	}{
		{nil, `interface "" is missing`, ttrpc.InvalidArgument},
		{&typespb.Interface{}, `interface.hwAddr "" is missing`, ttrpc.InvalidArgument},
		{base(func(i *typespb.Interface) { i.HwAddr = "" }), `interface.hwAddr "" is missing`, ttrpc.InvalidArgument},
		{base(func(i *typespb.Interface) { i.HwAddr = "02:00" }), `interface.hwAddr "02:00" is not a MAC`, ttrpc.InvalidArgument},
		{base(func(i *typespb.Interface) { i.HwAddr = "02:00:00:00:aa:ff" }), `interface.hwAddr "02:00:00:00:aa:ff" is not the address`, ttrpc.NotFound},
		{base(func(i *typespb.Interface) { i.HwAddr = "00:00:00:00:00:00" }), `interface.hwAddr "00:00:00:00:00:00" is the loopback`, ttrpc.InvalidArgument},
		{base(func(i *typespb.Interface) { i.DevicePath = "zz" }), `interface.devicePath "zz"`, ttrpc.InvalidArgument},
		{base(func(i *typespb.Interface) { i.DevicePath = "/etc" }), `interface.devicePath "/etc"`, ttrpc.InvalidArgument},
		{base(func(i *typespb.Interface) { i.DevicePath = "/sys/devices/../class" }), `interface.devicePath "/sys/devices/../class"`, ttrpc.InvalidArgument},
		{base(func(i *typespb.Interface) { i.DevicePath = "1f/1f" }), `interface.devicePath "1f/1f": `, ttrpc.DeadlineExceeded},
		{base(func(i *typespb.Interface) { i.DevicePath = "/sys/devices/virtual/net/ethB" }), `interface.hwAddr "02:00:00:00:aa:00" is not that of ethB`, ttrpc.InvalidArgument},
		{base(func(i *typespb.Interface) { i.Name = "abcdefghijklmnop" }), `interface.name "abcdefghijklmnop" is longer`, ttrpc.InvalidArgument},
		{base(func(i *typespb.Interface) { i.Name = strings.Repeat("x", 1<<20) }), `xxx"… (1048576 bytes) is longer`, ttrpc.InvalidArgument},
		{base(func(i *typespb.Interface) { i.Name = "a/b" }), `interface.name "a/b" has`, ttrpc.InvalidArgument},
		{base(func(i *typespb.Interface) { i.Name = "lo" }), `interface.name "lo" is the loopback`, ttrpc.InvalidArgument},
		{base(func(i *typespb.Interface) { i.Mtu = 1 << 32 }), `interface.mtu 4294967296 is more`, ttrpc.InvalidArgument},
		{base(func(i *typespb.Interface) { i.Mtu = 1 << 31 }), `interface.mtu 2147483648 is more`, ttrpc.InvalidArgument},
		{base(func(i *typespb.Interface) { i.RawFlags = unix.IFF_PROMISC }), `interface.raw_flags 256 has`, ttrpc.InvalidArgument},
		{address(nil), `interface.IPAddresses[1].address "" is missing`, ttrpc.InvalidArgument},
		{address(ip4("10.88.0", "16")), `interface.IPAddresses[1].address "10.88.0" is not an IP`, ttrpc.InvalidArgument},
		{address(ip4("10.88.0.6/16", "16")), `interface.IPAddresses[1].address "10.88.0.6/16" is not an IP`, ttrpc.InvalidArgument},
		{address(ip6("fe80::1%eth0", "64")), `interface.IPAddresses[1].address "fe80::1%eth0" is not an IP`, ttrpc.InvalidArgument},
		{address(ip4("0.0.0.0", "16")), `interface.IPAddresses[1].address "0.0.0.0" is not the address`, ttrpc.InvalidArgument},
		{address(ip4("224.0.0.1", "16")), `interface.IPAddresses[1].address "224.0.0.1" is not the address`, ttrpc.InvalidArgument},
		{address(ip4("127.0.0.1", "8")), `interface.IPAddresses[1].address "127.0.0.1" is a loopback`, ttrpc.InvalidArgument},
		{address(ip4("10.88.0.6", "")), `interface.IPAddresses[1].mask "" is missing`, ttrpc.InvalidArgument},
		{address(ip4("10.88.0.6", "33")), `interface.IPAddresses[1].mask "33" is not a prefix length of 0 to 32`, ttrpc.InvalidArgument},
		{address(ip6("fd88::6", "129")), `interface.IPAddresses[1].mask "129" is not a prefix length of 0 to 128`, ttrpc.InvalidArgument},
		{address(ip4("10.88.0.6", "255.255.0.0")), `interface.IPAddresses[1].mask "255.255.0.0" is`, ttrpc.InvalidArgument},
		{address(ip6("10.88.0.6", "16")), `interface.IPAddresses[1].family 1 (v6) is not the family of 10.88.0.6`, ttrpc.InvalidArgument},
		{address(&typespb.IPAddress{Family: 7, Address: "10.88.0.6", Mask: "16"}), `interface.IPAddresses[1].family 7 is neither`, ttrpc.InvalidArgument},
	} {
		_, err := agent.UpdateInterface(t.Context(), &agentpb.UpdateInterfaceRequest{Interface: tt.i})
		if ttrpc.CodeOf(err) != tt.code || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("want %v %s, got %v: %v", tt.code, tt.want, ttrpc.CodeOf(err), err)
		}
	}
	if after := netlab.State(t); after != before {
		t.Errorf("now:\n%s\nbefore:\n%s", after, before)
	}
}

func TestABadRouteIsNamedAndChangesNothing(t *testing.T) {
	pod(t)
	agent, ctx, mon := networkAgent(t, true, 0), t.Context(), netlab.Listen(t)
	if _, err := agent.UpdateInterface(ctx, upstreamInterface("net0", mac0, ip4("10.88.0.5", "16"), ip6("fd88::5", "64"))); err != nil {
		t.Fatal(err)
	}
	mon.Settle(1)
	fine := &typespb.Route{Gateway: "10.88.0.1", Device: "net0"}
	if _, err := agent.UpdateRoutes(ctx, &agentpb.UpdateRoutesRequest{Routes: &agentpb.Routes{Routes: []*typespb.Route{fine}}}); err != nil {
		t.Fatal(err)
	}
	if _, err := agent.UpdateRoutes(ctx, &agentpb.UpdateRoutesRequest{}); ttrpc.CodeOf(err) != ttrpc.InvalidArgument || !strings.HasPrefix(err.Error(), "routes ") {
		t.Errorf("without routes: %v", err)
	}
	before := netlab.State(t)
	for _, tt := range []struct {
		r    *typespb.Route
		want string
		code ttrpc.Code
	}{
		{nil, `device "" is missing`, ttrpc.InvalidArgument},
		{&typespb.Route{Dest: "10.1.0.0/16"}, `device "" is missing`, ttrpc.InvalidArgument},
		{&typespb.Route{Dest: "10.1.0.0/16", Device: "eth7"}, `device "eth7" is not a network device`, ttrpc.InvalidArgument},
		{&typespb.Route{Dest: "10.1.0.0/16", Device: "lo"}, `device "lo" is the loopback`, ttrpc.InvalidArgument},
		{&typespb.Route{Dest: "10.1.0.0/33", Device: "net0"}, `dest "10.1.0.0/33" is not a network`, ttrpc.InvalidArgument},
		{&typespb.Route{Dest: "10.1.2.3/16", Device: "net0"}, `dest "10.1.2.3/16" is an address within the network 10.1.0.0/16`, ttrpc.InvalidArgument},
		{&typespb.Route{Dest: "nonsense", Device: "net0"}, `dest "nonsense" is not a network`, ttrpc.InvalidArgument},
		{&typespb.Route{Dest: "10.1.0.0/16", Device: "net0", Gateway: "10.88.0"}, `gateway "10.88.0" is not an IP address`, ttrpc.InvalidArgument},
		{&typespb.Route{Dest: "10.1.0.0/16", Device: "net0", Gateway: "0.0.0.0"}, `gateway "0.0.0.0" is not the address`, ttrpc.InvalidArgument},
		{&typespb.Route{Dest: "10.1.0.0/16", Device: "net0", Gateway: "fd88::1"}, `gateway "fd88::1" is not of the family`, ttrpc.InvalidArgument},
		{&typespb.Route{Dest: "fd01::/64", Device: "net0", Gateway: "10.88.0.1"}, `gateway "10.88.0.1" is not of the family`, ttrpc.InvalidArgument},
		{&typespb.Route{Dest: "10.1.0.0/16", Device: "net0", Source: "fd88::5"}, `source "fd88::5" is not of the family`, ttrpc.InvalidArgument},
		{&typespb.Route{Dest: "10.1.0.0/16", Device: "net0", Source: "me"}, `source "me" is not the address`, ttrpc.InvalidArgument},
		{&typespb.Route{Dest: "10.1.0.0/16", Device: "net0", Family: typespb.IPFamily_v6}, `family 1 (v6) is not the family of 10.1.0.0`, ttrpc.InvalidArgument},
		{&typespb.Route{Dest: "10.1.0.0/16", Device: "net0", Family: 99}, `family 99 is neither`, ttrpc.InvalidArgument},
		{&typespb.Route{Dest: "10.1.0.0/16", Device: "net0", Scope: 256}, `scope 256 is not`, ttrpc.InvalidArgument},
		{&typespb.Route{Dest: "10.1.0.0/16", Device: "net0", Scope: 253, Gateway: "10.88.0.1"}, `scope 253 is not possible`, ttrpc.InvalidArgument},
		{&typespb.Route{Dest: "10.1.0.0/16", Device: "net0", Flags: 4}, `flags 4 says onlink`, ttrpc.InvalidArgument},
		{&typespb.Route{Dest: "10.1.0.0/16", Device: "net0", Flags: 1 << 30}, `flags 1073741824 has unknown`, ttrpc.InvalidArgument},
		{&typespb.Route{Dest: "10.1.0.0/16", Device: "net0", Mtu: 67}, `mtu 67 is not within 68 to 65520`, ttrpc.InvalidArgument},
		{&typespb.Route{Dest: "fd01::/64", Device: "net0", Mtu: 1279}, `mtu 1279 is not within 1280 to 65520`, ttrpc.InvalidArgument},
		{&typespb.Route{Dest: "10.1.0.0/16", Device: "net0", Gateway: "192.0.2.1"}, `: add route 10.1.0.0/16 via 192.0.2.1 dev net0: network is unreachable`, ttrpc.InvalidArgument},
		{&typespb.Route{Dest: "fd01::/64", Device: "net0", Gateway: "fd66::1"}, `: add route fd01::/64 via fd66::1 dev net0`, ttrpc.InvalidArgument},
		{&typespb.Route{Dest: "10.1.0.0/16", Device: "ethB"}, `: add route 10.1.0.0/16 dev ethB: network is down`, ttrpc.FailedPrecondition},
	} {
		routes := []*typespb.Route{fine, {Dest: "10.5.0.0/16", Device: "net0"}, tt.r, {Dest: "10.6.0.0/16", Gateway: "10.5.0.1", Device: "net0"}}
		_, err := agent.UpdateRoutes(ctx, &agentpb.UpdateRoutesRequest{Routes: &agentpb.Routes{Routes: routes}})
		if ttrpc.CodeOf(err) != tt.code || !strings.HasPrefix(err.Error(), "routes.Routes[2]") || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("want %v %s, got %v: %v", tt.code, tt.want, ttrpc.CodeOf(err), err)
		}
		if after := netlab.State(t); after != before {
			t.Fatalf("after %v\nnow:\n%s\nbefore:\n%s", tt.r, after, before)
		}
	}
	routes := &agentpb.Routes{Routes: slices.Repeat([]*typespb.Route{fine}, maxEntries+1)}
	if _, err := agent.UpdateRoutes(ctx, &agentpb.UpdateRoutesRequest{Routes: routes}); ttrpc.CodeOf(err) != ttrpc.ResourceExhausted {
		t.Errorf("too many routes: %v", err)
	}
}

func TestABadNeighbourIsNamedAndChangesNothing(t *testing.T) {
	pod(t)
	agent, ctx := networkAgent(t, true, 0), t.Context()
	if _, err := agent.AddARPNeighbors(ctx, &agentpb.AddARPNeighborsRequest{}); ttrpc.CodeOf(err) != ttrpc.InvalidArgument || !strings.HasPrefix(err.Error(), "neighbors ") {
		t.Errorf("without neighbours: %v", err)
	}
	before := netlab.State(t)
	to := ip4("10.88.0.1", "")
	for _, tt := range []struct {
		n    *typespb.ARPNeighbor
		want string
	}{
		{nil, `toIPAddress "" is missing`},
		{&typespb.ARPNeighbor{ToIPAddress: &typespb.IPAddress{}}, `toIPAddress.address "" is missing`},
		{&typespb.ARPNeighbor{ToIPAddress: ip4("10.88.0.999", "")}, `toIPAddress.address "10.88.0.999" is not an IP`},
		{&typespb.ARPNeighbor{ToIPAddress: ip6("10.88.0.1", "")}, `toIPAddress.family 1 (v6) is not the family`},
		{&typespb.ARPNeighbor{ToIPAddress: to}, `device "" is missing`},
		{&typespb.ARPNeighbor{ToIPAddress: to, Device: "eth7", Lladdr: mac1}, `device "eth7" is not a network device`},
		{&typespb.ARPNeighbor{ToIPAddress: to, Device: "lo", Lladdr: mac1}, `device "lo" is the loopback`},
		{&typespb.ARPNeighbor{ToIPAddress: to, Device: "ethA"}, `lladdr "" is missing`},
		{&typespb.ARPNeighbor{ToIPAddress: to, Device: "ethA", Lladdr: "02:00"}, `lladdr "02:00" is not a MAC`},
		{&typespb.ARPNeighbor{ToIPAddress: to, Device: "ethA", Lladdr: mac1 + ":01:02"}, `lladdr "02:00:00:00:aa:01:01:02" is not an address of 6 bytes`},
		{&typespb.ARPNeighbor{ToIPAddress: to, Device: "ethA", Lladdr: mac1, State: 3}, `state 3 is not one`},
		{&typespb.ARPNeighbor{ToIPAddress: to, Device: "ethA", Lladdr: mac1, State: -1}, `state -1 is not one`},
		{&typespb.ARPNeighbor{ToIPAddress: to, Device: "ethA", Lladdr: mac1, State: 256}, `state 256 is not one`},
		{&typespb.ARPNeighbor{ToIPAddress: to, Device: "ethA", Lladdr: mac1, Flags: 256}, `flags 256 has`},
	} {
		list := []*typespb.ARPNeighbor{{ToIPAddress: ip4("10.88.0.2", ""), Device: "ethA", Lladdr: mac1}, tt.n}
		_, err := agent.AddARPNeighbors(ctx, &agentpb.AddARPNeighborsRequest{Neighbors: &agentpb.ARPNeighbors{ARPNeighbors: list}})
		if ttrpc.CodeOf(err) != ttrpc.InvalidArgument || !strings.HasPrefix(err.Error(), "neighbors.ARPNeighbors[1].") || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("want %s, got %v: %v", tt.want, ttrpc.CodeOf(err), err)
		}
	}
	if after := netlab.State(t); after != before {
		t.Errorf("now:\n%s\nbefore:\n%s", after, before)
	}
}

func TestAnInterfaceIsAwaited(t *testing.T) {
	agent := networkAgent(t, true, time.Minute)
	for name, i := range map[string]*typespb.Interface{
		"net4": {HwAddr: "02:00:00:00:aa:04", Name: "net4"},
		"net5": {DevicePath: "/sys/devices/virtual/net/net5", Mtu: 1300},
	} {
		result := make(chan error, 1)
		go func() {
			_, err := agent.UpdateInterface(t.Context(), &agentpb.UpdateInterfaceRequest{Interface: i})
			result <- err
		}()
		mac := i.HwAddr
		if mac == "" {
			mac = "02:00:00:00:aa:05"
		}
		netlab.Dummy(t, name, mac)
		if err := <-result; err != nil {
			t.Error(err)
		}
		if !strings.Contains(netlab.IP(t, "link", "show", "dev", name), ",UP") {
			t.Errorf("%s is not up", name)
		}
	}
}

func TestInterfacesAreSetUpAtTheSameTime(t *testing.T) {
	pod(t)
	agent, ctx := networkAgent(t, true, time.Minute), t.Context()
	errs := make(chan error)
	const rounds = 10
	for i, mac := range []string{mac0, mac1} {
		go func() {
			var failed error
			for n := range rounds {
				// Each wants the name that the other has.
				name := [2]string{"net0", "net1"}[(n+i)%2]
				got, err := agent.UpdateInterface(ctx, upstreamInterface(name, mac, ip4("10.88.0.1"+mac[16:], "32")))
				switch {
				case err != nil:
					failed = err
				case got.Name != name || got.HwAddr != mac || len(got.IPAddresses) != 1:
					failed = fmt.Errorf("%v is not %s, %s", got, name, mac)
				}
			}
			errs <- failed
		}()
	}
	for range 2 {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
}

func TestOutsideAVMTheNetworkIsOnlyListed(t *testing.T) {
	pod(t)
	agent, ctx, before := networkAgent(t, false, 0), t.Context(), netlab.State(t)
	_, err1 := agent.UpdateInterface(ctx, upstreamInterface("net0", mac0))
	_, err2 := agent.UpdateRoutes(ctx, &agentpb.UpdateRoutesRequest{Routes: &agentpb.Routes{}})
	_, err3 := agent.AddARPNeighbors(ctx, &agentpb.AddARPNeighborsRequest{Neighbors: &agentpb.ARPNeighbors{}})
	for _, err := range []error{err1, err2, err3} {
		if ttrpc.CodeOf(err) != ttrpc.FailedPrecondition {
			t.Errorf("error is %v", err)
		}
	}
	if interfaces, err := agent.ListInterfaces(ctx, &agentpb.ListInterfacesRequest{}); err != nil || len(interfaces.Interfaces) < 3 {
		t.Errorf("%v, %v", interfaces, err)
	}
	if _, err := agent.ListRoutes(ctx, &agentpb.ListRoutesRequest{}); err != nil {
		t.Error(err)
	}
	if after := netlab.State(t); after != before {
		t.Errorf("now:\n%s\nbefore:\n%s", after, before)
	}
}

func TestNetworkStatsAreOfWhatIsUp(t *testing.T) {
	pod(t)
	s := &Service{network: netdev.New()}
	agent := networkAgent(t, true, 0)
	if _, err := agent.UpdateInterface(t.Context(), upstreamInterface("net0", mac0, ip4("10.88.0.5", "16"))); err != nil {
		t.Fatal(err)
	}
	stats, err := s.networkStats()
	if err != nil || len(stats) != 1 || stats[0].Name != "net0" {
		t.Errorf("%v, %v", stats, err)
	}
}
