//go:build vmtest

package netdev

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"kata/guest/fault"
	"kata/test/netlab"
)

const (
	macA = "02:00:00:00:00:0a"
	macB = "02:00:00:00:00:0b"
	macC = "02:00:00:00:00:0c"
)

func TestAnInterfaceIsSetUp(t *testing.T) {
	m := newMachine(t)
	netlab.Dummy(t, "eth0", macA)
	want := Settings{Name: "net1", MTU: 1400, Addresses: m.prefixes("10.1.2.3/24", "10.1.2.4/24", "fd00::1/64", "fe80::7/64")}
	got := m.set("02:00:00:00:00:0A", want)
	if got.Name != "net1" || got.MTU != 1400 || got.MAC.String() != macA || got.Kind != "dummy" || !slices.Equal(got.Addresses, want.Addresses) {
		t.Errorf("it is %+v", got)
	}
	text := netlab.IP(m, "addr", "show", "dev", "net1")
	for _, part := range []string{
		",UP", "mtu 1400", "inet 10.1.2.3/24 brd 10.1.2.255 scope global net1", "inet 10.1.2.4/24 brd 10.1.2.255 scope global secondary net1",
		"inet6 fd00::1/64", "inet6 fe80::7/64",
	} {
		if !strings.Contains(text, part) {
			t.Errorf("ip addr does not say %q:\n%s", part, text)
		}
	}
	if strings.Contains(text, "tentative") {
		t.Errorf("an address cannot be used yet:\n%s", text)
	}
	list, err := m.net.Interfaces()
	if err != nil || len(list) != 2 || list[0].Name != "lo" || list[1].Name != "net1" || !slices.Equal(list[1].Addresses, want.Addresses) {
		t.Errorf("interfaces are %+v, %v", list, err)
	}
}

func TestTheSameInterfaceAgainIsLeftAlone(t *testing.T) {
	m := newMachine(t)
	netlab.Dummy(t, "eth0", macA)
	want := Settings{Name: "net1", MTU: 1400, NoARP: true, Addresses: m.prefixes("10.1.2.3/24", "fd00::1/64", "fe80::7/64")}
	mon := netlab.Listen(t)
	first := m.set(macA, want)
	mon.Settle(2)
	for range 2 {
		second := m.set(macA, want)
		if n := mon.Drain(); len(n) != 0 {
			t.Errorf("%d notifications, the first of kind %d", len(n), n[0].Type)
		}
		if !slices.Equal(first.Addresses, second.Addresses) || second.Name != "net1" {
			t.Errorf("it is %+v", second)
		}
	}
}

func TestAddressesThatStayAreNotTouched(t *testing.T) {
	m := newMachine(t)
	netlab.Dummy(t, "eth0", macA)
	mon := netlab.Listen(t)
	m.set(macA, Settings{Addresses: m.prefixes("10.1.0.1/24", "10.2.0.1/24", "fd00::1/64", "fd00::2/64")})
	mon.Settle(2)
	netlab.IP(m, "route", "add", "10.99.0.0/16", "via", "10.2.0.9")
	m.set(macA, Settings{Addresses: m.prefixes("10.2.0.1/24", "10.3.0.1/24", "fd00::2/64", "fd00::3/64", "fd00::1/48")})
	for _, n := range mon.Drain() {
		switch n.Type {
		case unix.RTM_NEWLINK:
			t.Error("the link was touched")
		case unix.RTM_DELADDR:
			if text := string(n.Body); strings.Contains(text, string(m.addr("10.2.0.1"))) || strings.Contains(text, string(m.addr("fd00::2"))) {
				t.Error("an address that stays was touched")
			}
		}
	}
	if text := netlab.IP(m, "route"); !strings.Contains(text, "10.99.0.0/16 via 10.2.0.9 dev eth0") {
		t.Errorf("a route is lost:\n%s", text)
	}
	got := m.set(macA, Settings{Addresses: m.prefixes("10.2.0.1/24", "10.3.0.1/24", "fd00::2/64", "fd00::3/64", "fd00::1/48")})
	if len(got.Addresses) != 5 {
		t.Errorf("addresses are %v", got.Addresses)
	}
}

func TestTheSecondAddressOfANetworkStaysWithoutTheFirst(t *testing.T) {
	m := newMachine(t)
	netlab.Dummy(t, "eth0", macA)
	m.set(macA, Settings{Addresses: m.prefixes("10.1.0.1/24", "10.1.0.2/24", "10.1.0.3/24")})
	got := m.set(macA, Settings{Addresses: m.prefixes("10.1.0.2/24", "10.1.0.3/24", "10.1.0.4/24")})
	if len(got.Addresses) != 3 {
		t.Errorf("addresses are %v", got.Addresses)
	}
	got = m.set(macA, Settings{})
	if len(got.Addresses) != 0 {
		t.Errorf("addresses are %v", got.Addresses)
	}
}

func TestTheKernelsOwnLinkLocalAddressStays(t *testing.T) {
	m := newMachine(t)
	netlab.Link(t, "dummy", "eth0", macA, nil)
	m.set(macA, Settings{Addresses: m.prefixes("10.1.0.1/24")})
	own := m.prefixes("fe80::ff:fe00:a/64")[0]
	got := m.set(macA, Settings{Addresses: m.prefixes("10.1.0.2/24")})
	if !slices.Contains(got.Addresses, own) || len(got.Addresses) != 2 {
		t.Errorf("addresses are %v", got.Addresses)
	}
	// It may be asked for too, and then be asked for no more.
	m.set(macA, Settings{Addresses: append(m.prefixes("10.1.0.2/24"), own)})
	if got := m.set(macA, Settings{Addresses: m.prefixes("10.1.0.2/24")}); !slices.Contains(got.Addresses, own) {
		t.Errorf("addresses are %v", got.Addresses)
	}
}

// furnish gives a device everything that it can lose.
func (m *machine) furnish(mac, name, net string) {
	m.Helper()
	m.setAll(mac, Settings{Name: name, Addresses: m.prefixes("10."+net+".0.1/16", "fd0"+net+"::1/64", "fe80::"+net+"/64")})
	netlab.IP(m, "route", "add", "10.9"+net+".0.0/16", "via", "10."+net+".0.9", "dev", name, "metric", "7")
	netlab.IP(m, "route", "add", "10.8"+net+".0.0/16", "dev", name, "src", "10."+net+".0.1", "table", "77")
	netlab.IP(m, "-6", "route", "add", "fd9"+net+"::/64", "via", "fd0"+net+"::9", "dev", name, "mtu", "1300")
	netlab.IP(m, "-6", "route", "add", "default", "via", "fe80::99", "dev", name, "metric", net+"0")
	m.neighbour("10."+net+".0.9", name)
	m.neighbour("fd0"+net+"::9", name)
}

// becomes finds out whether the network becomes what want says: a moment after
// IPv6 addresses have been added, the kernel adds routes to them.
func (m *machine) becomes(mon *netlab.Monitor, want string) {
	m.Helper()
	got := ""
	if !mon.Await(func() bool { got = netlab.State(m); return sorted(got) == sorted(want) }) {
		m.Errorf("now:\n%s\nwanted:\n%s", got, want)
	}
}

func TestARenamedInterfaceKeepsWhatItHas(t *testing.T) {
	m := newMachine(t)
	netlab.Dummy(t, "eth0", macA)
	netlab.Dummy(t, "eth1", macB)
	m.furnish(macA, "eth0", "1")
	m.furnish(macB, "eth1", "2")
	before := netlab.State(m)
	settings := func(name, net string) Settings {
		return Settings{Name: name, Addresses: m.prefixes("10."+net+".0.1/16", "fd0"+net+"::1/64", "fe80::"+net+"/64")}
	}
	mon := netlab.Listen(t)
	m.set(macA, settings("blue", "1"))
	m.becomes(mon, strings.ReplaceAll(before, "eth0", "blue"))
	m.set(macA, settings("eth0", "1"))
	m.becomes(mon, before)
}

func TestInterfacesSwapTheirNames(t *testing.T) {
	m := newMachine(t)
	netlab.Dummy(t, "eth0", macA)
	netlab.Dummy(t, "eth1", macB)
	netlab.Dummy(t, "eth2", macC)
	m.furnish(macA, "eth0", "1")
	m.furnish(macB, "eth1", "2")
	before := netlab.State(m)
	settings := func(name, net string) Settings {
		return Settings{Name: name, Addresses: m.prefixes("10."+net+".0.1/16", "fd0"+net+"::1/64", "fe80::"+net+"/64")}
	}
	mon := netlab.Listen(t)
	m.set(macA, settings("eth1", "1"))
	m.becomes(mon, strings.NewReplacer("eth0", "eth1", "eth1", "eth0").Replace(before))
	m.set(macB, settings("eth0", "2")) // which it has
	if n := mon.Drain(); len(n) != 0 {
		t.Errorf("%d notifications", len(n))
	}
	// Round with three, of which one is down.
	m.set(macA, settings("eth0", "1"))
	m.set(macA, settings("eth2", "1"))
	m.set(macB, settings("eth0", "2"))
	m.set(macC, Settings{Name: "eth1"})
	for mac, name := range map[string]string{macA: "eth2", macB: "eth0", macC: "eth1"} {
		if !strings.Contains(netlab.IP(m, "link", "show", "dev", name), mac) {
			t.Errorf("%s is not %s", name, mac)
		}
	}
}

func TestWhatFailsInTheMiddleIsUndone(t *testing.T) {
	m := newMachine(t)
	netlab.Dummy(t, "eth0", macA)
	netlab.Dummy(t, "eth1", macB)
	m.furnish(macA, "eth0", "1")
	before := netlab.State(m)
	mon := netlab.Listen(t)
	// Without IPv6 there can be no such address; the rest is done by then.
	netlab.Sysctl(t, "ipv6/conf/eth1/disable_ipv6", "1")
	_, err := m.net.SetInterface(t.Context(), Which{MAC: m.mac(macB)}, Settings{Name: "eth0", MTU: 1400, Addresses: m.prefixes("10.5.0.1/24", "fd05::1/64")})
	if err == nil || !strings.Contains(err.Error(), "fd05::1/64") || !strings.Contains(err.Error(), "eth1") {
		t.Fatalf("error is %v", err)
	}
	m.becomes(mon, before)
}

func TestWhatMakesNoSenseIsRefusedAndChangesNothing(t *testing.T) {
	m := newMachine(t)
	netlab.Dummy(t, "eth0", macA)
	netlab.Dummy(t, "eth1", macB)
	netlab.Dummy(t, "twin0", macC)
	netlab.Dummy(t, "twin1", macC)
	netlab.Veth(t, "veth0", "02:00:00:00:00:01")
	m.furnish(macA, "eth0", "1")
	netlab.IP(m, "link", "set", "eth1", "mtu", "1000")
	links := m.links()
	before, mon := netlab.State(m), netlab.Listen(t)
	for _, tt := range []struct {
		name  string
		which Which
		want  Settings
		field string
	}{
		{"a long name", Which{MAC: m.mac(macA)}, Settings{Name: "abcdefghijklmnop"}, "name"},
		{"a name with a slash", Which{MAC: m.mac(macA)}, Settings{Name: "a/b"}, "name"},
		{"a name with a space", Which{MAC: m.mac(macA)}, Settings{Name: "a b"}, "name"},
		{"a name that is a pattern", Which{MAC: m.mac(macA)}, Settings{Name: "eth%d"}, "name"},
		{"the folder itself", Which{MAC: m.mac(macA)}, Settings{Name: ".."}, "name"},
		{"the loopback device's name", Which{MAC: m.mac(macA)}, Settings{Name: "lo"}, "name"},
		{"the loopback device", Which{MAC: m.mac("00:00:00:00:00:00")}, Settings{Name: "eth9"}, "hwAddr"},
		{"the loopback device's addresses", Which{MAC: m.mac("00:00:00:00:00:00")}, Settings{}, "hwAddr"},
		{"no device", Which{Name: "eth0"}, Settings{}, "hwAddr"},
		{"two devices", Which{MAC: m.mac(macC)}, Settings{Name: "eth7"}, "hwAddr"},
		{"another device's path", Which{MAC: m.mac(macA), Index: byName(links, "eth1").index}, Settings{}, "hwAddr"},
		{"an MTU below what the device can have", Which{MAC: m.mac("02:00:00:00:00:01")}, Settings{MTU: 67}, "mtu"},
		{"an MTU above what the device can have", Which{MAC: m.mac("02:00:00:00:00:01")}, Settings{MTU: 65536}, "mtu"},
		{"an MTU too small for IPv6", Which{MAC: m.mac(macA)}, Settings{MTU: 1279, Addresses: m.prefixes("fd00::1/64")}, "mtu"},
		{"an MTU that is too small for IPv6 already", Which{MAC: m.mac(macB)}, Settings{Addresses: m.prefixes("fd00::1/64")}, "mtu"},
		{"a loopback address", Which{MAC: m.mac(macA)}, Settings{Addresses: m.prefixes("127.0.0.2/8")}, "IPAddresses[0].address"},
		{"an IPv6 address with two masks", Which{MAC: m.mac(macA)}, Settings{Addresses: m.prefixes("fd00::1/64", "fd00::1/48")}, "IPAddresses[1].address"},
	} {
		_, err := m.net.SetInterface(t.Context(), tt.which, tt.want)
		if invalid := (*fault.Error)(nil); !errors.As(err, &invalid) || invalid.Kind != fault.Invalid || invalid.Field != tt.field {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
	for _, which := range []Which{{MAC: m.mac("02:00:00:00:00:ff")}, {Index: 999}} {
		if _, err := m.net.SetInterface(t.Context(), which, Settings{}); !errors.Is(err, ErrNotFound) {
			t.Errorf("%+v: %v", which, err)
		}
	}
	if n := mon.Drain(); len(n) != 0 || netlab.State(m) != before {
		t.Errorf("%d notifications", len(n))
	}
	// One of two with the same address is told by its name.
	if got := m.set(macC, Settings{Name: "twin1"}); got.Name != "twin1" {
		t.Errorf("it is %+v", got)
	}
}

func TestTheLoopbackDeviceCanBeFedBack(t *testing.T) {
	m := newMachine(t)
	list, err := m.net.Interfaces()
	if err != nil || len(list) != 1 {
		t.Fatalf("interfaces are %+v, %v", list, err)
	}
	lo := list[0]
	mon := netlab.Listen(t)
	got := m.set(lo.MAC.String(), Settings{Name: lo.Name, MTU: lo.MTU, Addresses: lo.Addresses})
	if n := mon.Drain(); len(n) != 0 || got.Name != "lo" || !slices.Equal(got.Addresses, lo.Addresses) {
		t.Errorf("%+v, %d notifications", got, len(n))
	}
}

func TestNoARPIsSetAndUnset(t *testing.T) {
	m := newMachine(t)
	netlab.Veth(t, "veth0", macA)
	for _, noARP := range []bool{true, false, true} {
		got := m.set(macA, Settings{NoARP: noARP})
		if got.NoARP != noARP || strings.Contains(netlab.IP(m, "link", "show", "dev", "veth0"), "NOARP") != noARP {
			t.Errorf("wanted %t, it is %+v", noARP, got)
		}
	}
}

func TestStatisticsAreTheKernelsCounters(t *testing.T) {
	m := newMachine(t)
	netlab.Veth(t, "veth0", macA)
	netlab.Dummy(t, "down0", macB)
	netlab.IP(m, "link", "set", "veth0peer", "up")
	m.set(macA, Settings{Addresses: m.prefixes("10.1.0.1/24")})
	m.neighbour("10.1.0.2", "veth0")
	sendPackets(t, "10.1.0.2", 5, 1000)
	list, err := m.net.Statistics()
	if err != nil || len(list) != 2 {
		t.Fatalf("%d, %v", len(list), err)
	}
	stats := map[string]*Statistics{list[0].Name: list[0], list[1].Name: list[1]}
	// 14 + 20 + 8 bytes of headers; the kernel may send packets of its own too.
	if s := stats["veth0"]; s.TxPackets < 5 || s.TxBytes < 5*1042 {
		t.Errorf("the sender: %+v", s)
	}
	if s := stats["veth0peer"]; s.RxPackets < 5 || s.RxBytes < 5*1028 {
		t.Errorf("the receiver: %+v", s)
	}
}

// sendPackets sends UDP packets.
func sendPackets(t *testing.T, to string, count, size int) {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	for range count {
		if err := unix.Sendto(fd, make([]byte, size), 0, &unix.SockaddrInet4{Port: 9, Addr: [4]byte([]byte(ParseAddr(to)))}); err != nil {
			t.Fatal(err)
		}
	}
}

// sorted returns the lines of a text in order.
func sorted(text string) string {
	lines := strings.Split(text, "\n")
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// What stands for no hardware is deleted, also a tunnel; the loopback device and
// fallback devices, which the kernel keeps, stay.
func TestVirtualDevicesAreDeleted(t *testing.T) {
	m := newMachine(t)
	netlab.IP(t, "link", "add", "dummy7", "type", "dummy")
	netlab.IP(t, "link", "add", "veth7", "type", "veth")
	netlab.IP(t, "tunnel", "add", "mytunnel", "mode", "ipip", "remote", "192.0.2.1")
	if err := DeleteVirtual(); err != nil {
		t.Fatal(err)
	}
	for _, l := range m.links() {
		if l.name != "lo" && l.name != "tunl0" {
			t.Errorf("%s (%s) is still there", l.name, l.kind)
		}
	}
}
