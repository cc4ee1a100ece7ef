// Package netlab is a small laboratory for tests of the network: devices to try
// things on, what the kernel tells of changes, and busybox's ip as a second
// opinion. It is for tests as root in a VM.
package netlab

import (
	"encoding/binary"
	"net"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"kata/guest/network/netlink"
)

// Namespace gives the calling goroutine a network namespace of its own. Its
// thread ends with it.
func Namespace(t testing.TB) {
	t.Helper()
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Fatal(err)
	}
}

// Dummy makes a device that sends packets to nowhere, until the end of the test.
// It gets no addresses by itself, so that what happens is what the test does.
func Dummy(t testing.TB, name, mac string) {
	t.Helper()
	Link(t, "dummy", name, mac, nil)
	Sysctl(t, "ipv6/conf/"+name+"/addr_gen_mode", "1")
}

// Veth makes a pair of devices, of which one is called name+"peer", until the end
// of the test. It tells by and by that it is connected.
func Veth(t testing.TB, name, mac string) {
	t.Helper()
	const vethInfoPeer = 1
	Link(t, "veth", name, mac, func(r *netlink.Request) {
		at := r.Begin(vethInfoPeer)
		r.BeginStruct(make([]byte, unix.SizeofIfInfomsg)) // and not ended: it has no length
		r.String(unix.IFLA_IFNAME, name+"peer")
		r.End(at)
	})
}

// Link makes a device of some kind until the end of the test; data appends what
// its kind is told.
func Link(t testing.TB, kind, name, mac string, data func(*netlink.Request)) {
	t.Helper()
	hw, err := net.ParseMAC(mac)
	if err != nil {
		t.Fatal(err)
	}
	r := netlink.NewRequest(unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL, make([]byte, unix.SizeofIfInfomsg))
	r.String(unix.IFLA_IFNAME, name)
	r.Bytes(unix.IFLA_ADDRESS, hw)
	info := r.Begin(unix.IFLA_LINKINFO)
	r.String(unix.IFLA_INFO_KIND, kind)
	if data != nil {
		at := r.Begin(unix.IFLA_INFO_DATA)
		data(r)
		r.End(at)
	}
	r.End(info)
	Do(t, r)
	device, err := net.InterfaceByName(name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		fixed := make([]byte, unix.SizeofIfInfomsg)
		binary.NativeEndian.PutUint32(fixed[4:], uint32(device.Index))
		Do(t, netlink.NewRequest(unix.RTM_DELLINK, 0, fixed))
	})
}

// Do sends a request to the kernel, which has to agree.
func Do(t testing.TB, r *netlink.Request) {
	t.Helper()
	conn, err := netlink.Dial()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.Do(r); err != nil {
		t.Fatal(err)
	}
}

// Sysctl writes a file below /proc/sys/net.
func Sysctl(t testing.TB, name, value string) {
	t.Helper()
	if err := os.WriteFile("/proc/sys/net/"+name, []byte(value), 0); err != nil {
		t.Fatal(err)
	}
}

// IP runs busybox's ip and returns its output.
func IP(t testing.TB, args ...string) string {
	t.Helper()
	out, err := exec.Command("busybox", append([]string{"ip"}, args...)...).CombinedOutput()
	if err != nil {
		t.Fatalf("ip %s: %v: %s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// varying is what ip tells that changes by itself: carriers, counters, ages.
var varying = regexp.MustCompile(`(NO-CARRIER,|,LOWER_UP| state \w+| qlen \d+|ref \d+ | used [0-9/]+| probes \d+)`)

// State is everything that the kernel tells of the network and that stays as it
// is: devices, addresses, the routes of all tables, neighbours for good.
func State(t testing.TB) string {
	t.Helper()
	text := IP(t, "link") + IP(t, "addr") + IP(t, "route", "show", "table", "all") + IP(t, "-6", "route", "show", "table", "all")
	for line := range strings.Lines(IP(t, "neigh")) {
		if strings.Contains(line, "PERMANENT") {
			text += line
		}
	}
	return varying.ReplaceAllString(text, "")
}

// Monitor hears of all changes of the network.
type Monitor struct {
	t    testing.TB
	fd   int
	conn *netlink.Conn
}

// Notification is an announcement of the kernel.
type Notification struct {
	Type uint16 // RTM_…
	Body []byte
}

// Listen returns a monitor that listens until the end of the test.
func Listen(t testing.TB) *Monitor {
	t.Helper()
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	const groups = unix.RTMGRP_LINK | unix.RTMGRP_NEIGH | unix.RTMGRP_IPV4_IFADDR | unix.RTMGRP_IPV4_ROUTE | unix.RTMGRP_IPV6_IFADDR | unix.RTMGRP_IPV6_ROUTE
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: groups}); err != nil {
		t.Fatal(err)
	}
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: patience}); err != nil {
		t.Fatal(err)
	}
	conn, err := netlink.Dial()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return &Monitor{t, fd, conn}
}

// Settle waits until the kernel has announced as many IPv6 addresses since
// Listen, which it does a little after they have been added, and drops what it
// has announced so far.
func (m *Monitor) Settle(addresses int) {
	m.t.Helper()
	for addresses > 0 {
		n := m.next(true)
		if n == nil {
			m.t.Fatalf("%d IPv6 addresses are not announced", addresses)
		}
		if n.Type == unix.RTM_NEWADDR && n.Body[0] == unix.AF_INET6 {
			addresses--
		}
	}
	// Routes to them follow under the same lock, which a request waits for.
	if _, err := m.conn.Dump(netlink.NewRequest(unix.RTM_GETLINK, 0, make([]byte, unix.SizeofIfInfomsg))); err != nil {
		m.t.Fatal(err)
	}
	m.Drain()
}

// Await waits until done reports true, which it asks after each announcement. It
// returns false when nothing is announced for a long time.
func (m *Monitor) Await(done func() bool) bool {
	m.t.Helper()
	for !done() {
		if m.next(true) == nil {
			return false
		}
	}
	m.Settle(0)
	return true
}

// Drain returns what has been announced and not been read.
func (m *Monitor) Drain() (list []*Notification) {
	m.t.Helper()
	for n := m.next(false); n != nil; n = m.next(false) {
		list = append(list, n)
	}
	return list
}

// patience is how long next waits, in seconds.
const patience = 60

// next returns the next notification, or nil if there is none, at once or after
// having waited for it.
func (m *Monitor) next(wait bool) *Notification {
	m.t.Helper()
	flags := unix.MSG_DONTWAIT
	if wait {
		flags = 0
	}
	for buf := make([]byte, 64<<10); ; {
		n, _, err := unix.Recvfrom(m.fd, buf, flags)
		switch {
		case err == unix.EINTR:
			continue
		case err == unix.EAGAIN:
			return nil
		case err != nil:
			m.t.Fatal(err)
		}
		return &Notification{binary.NativeEndian.Uint16(buf[4:]), buf[unix.SizeofNlMsghdr:n]}
	}
}
