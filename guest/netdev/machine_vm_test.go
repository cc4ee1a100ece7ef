//go:build vmtest

package netdev

import (
	"encoding/binary"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"kata/guest/netlink"
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
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Fatal(err)
	}
	conn, err := netlink.Dial()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	m := &machine{t, New(), &session{conn}}
	if err := Up("lo"); err != nil {
		t.Fatal(err)
	}
	return m
}

// dummy makes a device that sends packets to nowhere. It gets no address by
// itself, so that what happens is what the test does.
func (m *machine) dummy(name, mac string) {
	m.Helper()
	m.link("dummy", name, mac, nil)
	m.sysctl("ipv6/conf/"+name+"/addr_gen_mode", "1")
}

func (m *machine) link(kind, name, mac string, data func(*netlink.Request)) {
	m.Helper()
	r := netlink.NewRequest(unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL, make([]byte, unix.SizeofIfInfomsg))
	r.String(unix.IFLA_IFNAME, name)
	if mac != "" {
		r.Bytes(unix.IFLA_ADDRESS, []byte(m.mac(mac)))
	}
	info := r.Begin(unix.IFLA_LINKINFO)
	r.String(unix.IFLA_INFO_KIND, kind)
	if data != nil {
		at := r.Begin(unix.IFLA_INFO_DATA)
		data(r)
		r.End(at)
	}
	r.End(info)
	if err := m.s.conn.Do(r); err != nil {
		m.Fatalf("make %s: %v", name, err)
	}
}

// veth makes a pair of devices, the other end of which is called name+"peer".
func (m *machine) veth(name, mac string) {
	m.Helper()
	const vethInfoPeer = 1
	m.link("veth", name, mac, func(r *netlink.Request) {
		peer := make([]byte, unix.SizeofIfInfomsg)
		text := name + "peer\x00"
		peer = binary.NativeEndian.AppendUint16(peer, uint16(4+len(text)))
		peer = binary.NativeEndian.AppendUint16(peer, unix.IFLA_IFNAME)
		r.Bytes(vethInfoPeer, append(peer, text...))
	})
}

func (m *machine) sysctl(name, value string) {
	m.Helper()
	if err := os.WriteFile("/proc/sys/net/"+name, []byte(value), 0); err != nil {
		m.Fatal(err)
	}
}

// ip runs busybox's ip.
func (m *machine) ip(args ...string) string {
	m.Helper()
	out, err := exec.Command("busybox", append([]string{"ip"}, args...)...).CombinedOutput()
	if err != nil {
		m.Fatalf("ip %s: %v: %s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// neighbour makes an entry that stays, which busybox cannot.
func (m *machine) neighbour(addr, device string) {
	m.Helper()
	links, err := m.s.links()
	if err != nil {
		m.Fatal(err)
	}
	entry := &neighbour{
		addr: m.addr(addr), index: byName(links, device).index, mac: m.mac("02:00:00:00:00:99"),
		state: unix.NUD_PERMANENT,
	}
	if err := m.s.addNeighbour(entry); err != nil {
		m.Fatal(err)
	}
}

// state is everything that the kernel says about the network, other than
// counters and ages.
func (m *machine) state() string {
	m.Helper()
	var all strings.Builder
	for _, args := range [][]string{{"link"}, {"addr"}, {"route", "show", "table", "all"}, {"-6", "route", "show", "table", "all"}, {"neigh"}} {
		for line := range strings.Lines(m.ip(args...)) {
			if args[0] == "neigh" && !strings.Contains(line, "PERMANENT") {
				continue
			}
			all.WriteString(line)
		}
	}
	return all.String()
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
	if a == "" && text != "" {
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

// monitor hears of all changes of the network.
type monitor struct {
	*machine
	fd int
}

func (m *machine) monitor() *monitor {
	m.Helper()
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		m.Fatal(err)
	}
	m.Cleanup(func() { unix.Close(fd) })
	const groups = unix.RTMGRP_LINK | unix.RTMGRP_NEIGH | unix.RTMGRP_IPV4_IFADDR | unix.RTMGRP_IPV4_ROUTE | unix.RTMGRP_IPV6_IFADDR | unix.RTMGRP_IPV6_ROUTE
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: groups}); err != nil {
		m.Fatal(err)
	}
	return &monitor{m, fd}
}

// next returns the next notification; without one it waits or returns nil.
func (m *monitor) next(wait bool) *notification {
	m.Helper()
	buf := make([]byte, 64<<10)
	flags := unix.MSG_DONTWAIT
	if wait {
		flags = 0
	}
	for {
		n, _, err := unix.Recvfrom(m.fd, buf, flags)
		switch {
		case err == unix.EINTR:
			continue
		case err == unix.EAGAIN && !wait:
			return nil
		case err != nil:
			m.Fatal(err)
		}
		return &notification{kind: binary.NativeEndian.Uint16(buf[4:]), body: buf[unix.SizeofNlMsghdr:n]}
	}
}

type notification struct {
	kind uint16
	body []byte
}

// settle waits until the kernel has announced as many IPv6 addresses: it does
// that a little after they have been added.
func (m *monitor) settle(addresses int) {
	m.Helper()
	for addresses > 0 {
		if n := m.next(true); n.kind == unix.RTM_NEWADDR && n.body[0] == unix.AF_INET6 {
			addresses--
		}
	}
	m.drain()
}

// drain returns the notifications there are.
func (m *monitor) drain() (list []*notification) {
	m.Helper()
	for n := m.next(false); n != nil; n = m.next(false) {
		list = append(list, n)
	}
	return list
}
