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

func TestNeighboursAreAdded(t *testing.T) {
	m := newMachine(t)
	netlab.Dummy(t, "eth0", macA)
	m.setAll(macA, Settings{Addresses: m.prefixes("10.1.0.1/24", "fd01::1/64")})
	list := []Neighbour{
		{Addr: m.addr("10.1.0.2"), Device: "eth0", MAC: m.mac("02:00:00:00:01:02"), State: unix.NUD_PERMANENT},
		{Addr: m.addr("fd01::2"), Device: "eth0", MAC: m.mac("02:00:00:00:01:03")},
		{Addr: m.addr("10.1.0.3"), Device: "eth0", MAC: m.mac("02:00:00:00:01:04"), State: unix.NUD_NOARP},
		{Addr: m.addr("10.1.0.4"), Device: "eth0", Flags: unix.NTF_PROXY},
		{Addr: m.addr("fd01::4"), Device: "eth0", Flags: unix.NTF_PROXY},
	}
	if err := m.net.AddNeighbours(t.Context(), list); err != nil {
		t.Fatal(err)
	}
	text := netlab.IP(m, "neigh")
	for _, part := range []string{"10.1.0.2 dev eth0 lladdr 02:00:00:00:01:02", "fd01::2 dev eth0 lladdr 02:00:00:00:01:03"} {
		_, rest, ok := strings.Cut(text, part)
		if line, _, _ := strings.Cut(rest, "\n"); !ok || !strings.Contains(line, "PERMANENT") {
			t.Errorf("ip neigh does not say %q:\n%s", part, text)
		}
	}
	have, err := m.s.neighbours()
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range list {
		if !slices.ContainsFunc(have, func(n *neighbour) bool {
			return n.addr == want.Addr && n.mac == want.MAC && n.flags == want.Flags &&
				(n.state == want.State || want.State == 0)
		}) {
			t.Errorf("%+v is not among %+v", want, have)
		}
	}
	mon := netlab.Listen(t)
	if err := m.net.AddNeighbours(t.Context(), list); err != nil {
		t.Error(err)
	}
	if n := mon.Drain(); len(n) != 0 {
		t.Errorf("%d notifications, the first of kind %d", len(n), n[0].Type)
	}
	// Another address takes the place of the first.
	list[0].MAC = m.mac("02:00:00:00:01:99")
	if err := m.net.AddNeighbours(t.Context(), list); err != nil {
		t.Error(err)
	}
	if text := netlab.IP(m, "neigh"); !strings.Contains(text, "02:00:00:00:01:99") || strings.Contains(text, "02:00:00:00:01:02") {
		t.Error(text)
	}
}

func TestANeighbourThatFailsLeavesTheOthersAsTheyWere(t *testing.T) {
	m := newMachine(t)
	netlab.Dummy(t, "eth0", macA)
	m.setAll(macA, Settings{Addresses: m.prefixes("10.1.0.1/24")})
	old := Neighbour{Addr: m.addr("10.1.0.2"), Device: "eth0", MAC: m.mac("02:00:00:00:01:02")}
	if err := m.net.AddNeighbours(t.Context(), []Neighbour{old}); err != nil {
		t.Fatal(err)
	}
	netlab.IP(m, "link", "set", "eth0", "mtu", "1000") // with which there is no IPv6
	before := netlab.State(m)
	changed := old
	changed.MAC = m.mac("02:00:00:00:01:99")
	err := m.net.AddNeighbours(t.Context(), []Neighbour{
		changed,
		{Addr: m.addr("10.1.0.3"), Device: "eth0", MAC: m.mac("02:00:00:00:01:03")},
		{Addr: m.addr("10.1.0.4"), Device: "eth0", Flags: unix.NTF_PROXY},
		{Addr: m.addr("fd01::5"), Device: "eth0", MAC: m.mac("02:00:00:00:01:05")},
	})
	failed := (*NeighbourError)(nil)
	if !errors.As(err, &failed) || failed.Index != 3 || failed.Name != "fd01::5 dev eth0" {
		t.Fatalf("error is %v", err)
	}
	if got := netlab.State(m); got != before {
		t.Errorf("%v\nnow:\n%s\nbefore:\n%s", err, got, before)
	}
	have, err := m.s.neighbours()
	if err != nil || slices.ContainsFunc(have, func(n *neighbour) bool { return n.addr == m.addr("10.1.0.3") || n.addr == m.addr("10.1.0.4") }) {
		t.Errorf("neighbours are %+v, %v", have, err)
	}
}

func TestNeighboursThatMakeNoSenseAreRefused(t *testing.T) {
	m := newMachine(t)
	netlab.Dummy(t, "eth0", macA)
	fine := Neighbour{Addr: m.addr("10.1.0.2"), Device: "eth0", MAC: m.mac("02:00:00:00:01:02")}
	for field, bad := range map[string]Neighbour{
		"device": {Addr: fine.Addr, Device: "eth7", MAC: fine.MAC},
		"Device": {Addr: fine.Addr, Device: "lo", MAC: fine.MAC},
		"lladdr": {Addr: fine.Addr, Device: "eth0", MAC: m.mac("02:00:00:00:01:02:03:04")},
	} {
		err := m.net.AddNeighbours(t.Context(), []Neighbour{fine, bad})
		if invalid := (*fault.Error)(nil); !errors.As(err, &invalid) || invalid.Kind != fault.Invalid || invalid.Field != "[1]."+strings.ToLower(field) {
			t.Errorf("%s: %v", field, err)
		}
	}
	if text := netlab.IP(m, "neigh"); strings.Contains(text, "10.1.0.2") {
		t.Error(text)
	}
}
