package iptables

import (
	"encoding/binary"

	"golang.org/x/sys/unix"
)

// Family is the version of IP whose packet filter is meant.
type Family uint8

// The families. Each has tables of its own.
const (
	IPv4 Family = 1
	IPv6 Family = 2

	both = IPv4 | IPv6
)

// Sizes of include/uapi/linux/netfilter/x_tables.h. The layouts are those of
// 64-bit kernels; numbers are in the machine's byte order, but for addresses
// and ports of the network.
const (
	tableNameLen = 32 // XT_TABLE_MAXNAMELEN
	extNameLen   = 29 // XT_EXTENSION_MAXNAMELEN, with the zero at the end
	extHeader    = 32 // struct xt_entry_match, struct xt_entry_target
	ifNameLen    = unix.IFNAMSIZ
	maxEntry     = 0xffff // next_offset has 16 bits
	align        = 8

	standardSize = extHeader + 8  // struct xt_standard_target
	errorSize    = extHeader + 32 // struct xt_error_target
	countersSize = 16             // struct xt_counters
)

// Verdicts of a standard target: -NF_DROP-1 and so on.
const (
	verdictDrop   = -1
	verdictAccept = -2
	verdictReturn = -5
)

// Hooks, in the order of enum nf_inet_hooks.
const (
	hookPrerouting = iota
	hookInput
	hookForward
	hookOutput
	hookPostrouting
	hooks
)

//go:noinline
func hookName(hook int) string {
	return [hooks]string{"PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"}[hook]
}

// tables are the tables that there are, with the hooks that each is called at,
// as bits.
const tables = "filter=0xe nat=0x1b mangle=0x1f raw=0x9 security=0xe"

// Bits of the inversion flags, the same in both families.
const (
	invIn    = 0x01
	invOut   = 0x02
	invSrc   = 0x08
	invDst   = 0x10
	invFrag  = 0x20 // IPv4 only
	invProto = 0x40
)

// layout says where things are in an entry of a family: struct ipt_entry and
// struct ip6t_entry.
type layout struct {
	addr             int // bytes of an address; source, destination and their masks are first
	ifaces           int // the two names, then the two masks
	proto            int
	flags, inverted  int
	flagFrag         byte // the packet is a further fragment
	flagProto        byte // proto is to be compared
	flagGoto         byte
	targetOffset     int
	nextOffset       int
	counters, header int

	domain, level             int
	revisionMatch, revisionTo int
	list                      string // the file that has the names of the tables in use
}

//go:noinline
func (f Family) layout() *layout {
	if f == IPv6 {
		return &layout6
	}
	return &layout4
}

var (
	layout4 = layout{
		addr: 4, ifaces: 16, proto: 80, flags: 82, inverted: 83, flagFrag: 1, flagGoto: 2,
		targetOffset: 88, nextOffset: 90, counters: 96, header: 112,
		domain: unix.AF_INET, level: unix.IPPROTO_IP, revisionMatch: 66, revisionTo: 67,
		list: "/proc/thread-self/net/ip_tables_names",
	}
	layout6 = layout{
		addr: 16, ifaces: 64, proto: 128, flags: 131, inverted: 132, flagProto: 1, flagGoto: 4,
		targetOffset: 140, nextOffset: 142, counters: 152, header: 168,
		domain: unix.AF_INET6, level: unix.IPPROTO_IPV6, revisionMatch: 68, revisionTo: 69,
		list: "/proc/thread-self/net/ip6_tables_names",
	}
)

// byteOrder is that of the numbers in the kernel's structures.
var byteOrder = binary.NativeEndian

// The small functions that many places call are kept from being inlined: the
// agent's size counts, their speed does not.

// number returns the number of size 1, 2 or 4 at the start of b.
//
//go:noinline
func number(b []byte, size uint8) uint32 {
	switch size {
	case 1:
		return uint32(b[0])
	case 2:
		return uint32(byteOrder.Uint16(b))
	}
	return byteOrder.Uint32(b)
}

// putNumber writes what number reads.
//
//go:noinline
func putNumber(b []byte, size uint8, n uint32) {
	switch size {
	case 1:
		b[0] = byte(n)
	case 2:
		byteOrder.PutUint16(b, uint16(n))
	default:
		byteOrder.PutUint32(b, n)
	}
}

// text returns the string that ends with the first zero of b, if any.
//
//go:noinline
func text(b []byte) string {
	for i, c := range b {
		if c == 0 {
			return string(b[:i])
		}
	}
	return string(b)
}

// appendExtension appends a match or a target, of which size bytes follow the
// header: data, and zeros.
func appendExtension(b []byte, name string, revision uint8, data []byte, size int) []byte {
	start := len(b)
	b = append(b, make([]byte, extHeader+size)...)
	putNumber(b[start:], 2, uint32(extHeader+size))
	copy(b[start+2:start+2+extNameLen-1], name)
	b[start+extHeader-1] = revision
	copy(b[start+extHeader:], data)
	return b
}
