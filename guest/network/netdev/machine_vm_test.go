//go:build vmtest

package netdev

import (
	"testing"

	"golang.org/x/sys/unix"

	"kata/guest/network/netlink"
	"kata/test/netlab"
)

// Tests in a VM: each has a network namespace of its own, with devices that
// are made for it, and asks the kernel and busybox's ip what has become of them.

// machine is a network namespace.
type machine struct {
	*testing.T
	net *Network
	s   *session
}

// newMachine makes a namespace for the calling goroutine, whose thread ends with
// it.
func newMachine(t *testing.T) *machine {
	t.Helper()
	netlab.Namespace(t)
	conn, err := netlink.Dial()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	if err := Up("lo"); err != nil {
		t.Fatal(err)
	}
	return &machine{t, New(), &session{conn}}
}

// links are the devices that there are.
func (m *machine) links() []*link {
	m.Helper()
	links, err := m.s.links()
	if err != nil {
		m.Fatal(err)
	}
	return links
}

// neighbour makes an entry that stays, which busybox cannot.
func (m *machine) neighbour(addr, device string) {
	m.Helper()
	entry := &neighbour{addr: m.addr(addr), index: byName(m.links(), device).index, mac: m.mac("02:00:00:00:00:99"), state: unix.NUD_PERMANENT}
	if err := m.s.addNeighbour(entry); err != nil {
		m.Fatal(err)
	}
}

func (m *machine) mac(text string) MAC {
	m.Helper()
	mac := ParseMAC(text)
	if mac == "" {
		m.Fatalf("%q is no MAC address", text)
	}
	return mac
}

func (m *machine) prefixes(texts ...string) (list []Prefix) {
	m.Helper()
	for _, text := range texts {
		p := ParsePrefix(text)
		if p.Addr == "" {
			m.Fatalf("%q is no prefix", text)
		}
		list = append(list, p)
	}
	return list
}

func (m *machine) addr(text string) Addr {
	m.Helper()
	a := ParseAddr(text)
	if a == "" {
		m.Fatalf("%q is no address", text)
	}
	return a
}

// set calls SetInterface for a device with a MAC address.
func (m *machine) set(mac string, want Settings) *Interface {
	m.Helper()
	got, err := m.net.SetInterface(m.Context(), Which{MAC: m.mac(mac)}, want)
	if err != nil {
		m.Fatal(err)
	}
	return got
}

// setAll is set, and waits until the kernel has announced all IPv6 addresses.
func (m *machine) setAll(mac string, want Settings) *Interface {
	m.Helper()
	mon, six := netlab.Listen(m), 0
	for _, p := range want.Addresses {
		if p.Addr.Is6() {
			six++
		}
	}
	got := m.set(mac, want)
	mon.Settle(six)
	return got
}
