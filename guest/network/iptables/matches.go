package iptables

// Names of values in options, as lookUp takes them; orders are those they are
// printed in.
const (
	tcpFlagNames = "FIN=1 SYN=2 RST=4 PSH=8 ACK=16 URG=32"
	tcpFlagWords = tcpFlagNames + " ALL=63 NONE=0"

	// enum ip_conntrack_info as XT_CONNTRACK_STATE_BIT has it.
	plainStates = "INVALID=1 NEW=8 RELATED=4 ESTABLISHED=2 UNTRACKED=256"
	stateNames  = plainStates + " SNAT=64 DNAT=128"

	// enum ip_conntrack_status. NONE stands for none.
	statusNames = "EXPECTED=1 SEEN_REPLY=2 ASSURED=4 CONFIRMED=8 NONE=0"

	// RTN_ of rtnetlink(7), as bits.
	addressTypes = "UNSPEC=1 UNICAST=2 LOCAL=4 BROADCAST=8 ANYCAST=16 MULTICAST=32 BLACKHOLE=64 UNREACHABLE=128 " +
		"PROHIBIT=256 THROW=512 NAT=1024 XRESOLVE=2048"
)

// Names for icmpType, of which the values are a type, the lowest code, and the
// highest.
const (
	icmpNames = "any=0xff00ff echo-reply=0xff pong=0xff destination-unreachable=0x300ff network-unreachable=0x30000 " +
		"host-unreachable=0x30101 protocol-unreachable=0x30202 port-unreachable=0x30303 " +
		"fragmentation-needed=0x30404 source-route-failed=0x30505 network-unknown=0x30606 " +
		"host-unknown=0x30707 network-prohibited=0x30909 host-prohibited=0x30a0a " +
		"TOS-network-unreachable=0x30b0b TOS-host-unreachable=0x30c0c communication-prohibited=0x30d0d " +
		"host-precedence-violation=0x30e0e precedence-cutoff=0x30f0f source-quench=0x400ff redirect=0x500ff " +
		"network-redirect=0x50000 host-redirect=0x50101 TOS-network-redirect=0x50202 " +
		"TOS-host-redirect=0x50303 echo-request=0x800ff ping=0x800ff router-advertisement=0x900ff " +
		"router-solicitation=0xa00ff time-exceeded=0xb00ff ttl-exceeded=0xb00ff " +
		"ttl-zero-during-transit=0xb0000 ttl-zero-during-reassembly=0xb0101 parameter-problem=0xc00ff " +
		"ip-header-bad=0xc0000 required-option-missing=0xc0101 timestamp-request=0xd00ff " +
		"timestamp-reply=0xe00ff address-mask-request=0x1100ff address-mask-reply=0x1200ff"

	icmp6Names = "destination-unreachable=0x100ff no-route=0x10000 communication-prohibited=0x10101 " +
		"beyond-scope=0x10202 address-unreachable=0x10303 port-unreachable=0x10404 failed-policy=0x10505 " +
		"reject-route=0x10606 packet-too-big=0x200ff time-exceeded=0x300ff ttl-exceeded=0x300ff " +
		"ttl-zero-during-transit=0x30000 ttl-zero-during-reassembly=0x30101 parameter-problem=0x400ff " +
		"bad-header=0x40000 unknown-header-type=0x40101 unknown-option=0x40202 echo-request=0x8000ff " +
		"ping=0x8000ff echo-reply=0x8100ff pong=0x8100ff mld-listener-query=0x8200ff " +
		"mld-listener-report=0x8300ff mld-listener-done=0x8400ff mld-listener-reduction=0x8400ff " +
		"router-solicitation=0x8500ff router-advertisement=0x8600ff neighbour-solicitation=0x8700ff " +
		"neighbor-solicitation=0x8700ff neighbour-advertisement=0x8800ff neighbor-advertisement=0x8800ff " +
		"redirect=0x8900ff"
)

const withPorts = "\x06\x11\x21\x84\x88" // TCP, UDP, DCCP, SCTP, UDP-Lite

// matches are the matches that the text may name, in the revisions that the
// tools of iptables 1.8 use. Like all tables here it is never written to.
var matches = []extension{
	{name: "tcp", family: both, size: 16, protocols: "\x06", // struct xt_tcp
		preset: "\x00\x00\xff\xff\x00\x00\xff\xff",
		options: []option{
			{name: "--sport --source-port", kind: span, at: 0, size: 2, not: bit(11, 1, 1)},
			{name: "--dport --destination-port", kind: span, at: 4, size: 2, not: bit(11, 1, 2)},
			{name: "--tcp-option", kind: decimal, at: 8, size: 1, not: bit(11, 1, 8)},
			{name: "--tcp-flags", kind: tcpFlags, at: 9, size: 2, not: bit(11, 1, 4)},
			{name: "--syn", when: whole(9, 2, 0x0217), not: bit(11, 1, 4), show: hidden},
		}},
	{name: "udp", family: both, size: 16, protocols: "\x11", // struct xt_udp
		preset: "\x00\x00\xff\xff\x00\x00\xff\xff",
		options: []option{
			{name: "--sport --source-port", kind: span, at: 0, size: 2, not: bit(8, 1, 1)},
			{name: "--dport --destination-port", kind: span, at: 4, size: 2, not: bit(8, 1, 2)},
		}},
	{name: "icmp", family: IPv4, size: 8, protocols: "\x01", // struct ipt_icmp
		preset:  "\xff\x00\xff",
		options: []option{{name: "--icmp-type", kind: icmpType, show: shown, not: bit(3, 1, 1), words: icmpNames}}},
	{name: "icmp6", family: IPv6, size: 8, protocols: "\x3a", // struct ip6t_icmp
		preset:  "\x00\x00\xff",
		options: []option{{name: "--icmpv6-type --icmp6-type", kind: icmpType, show: required, not: bit(3, 1, 1), words: icmp6Names}}},
	{name: "comment", family: both, size: 256, // struct xt_comment_info
		options: []option{{name: "--comment", kind: quoted, also: 255, show: required}}},
	{name: "state", kernel: "conntrack", revision: 3, family: both, size: 168, any: true,
		always:  bit(146, 2, 1<<13), // XT_CONNTRACK_STATE_ALIAS
		options: []option{{name: "--state", kind: set, at: 150, size: 2, when: bit(146, 2, 1), not: bit(148, 2, 1), words: plainStates}}},
	{name: "conntrack", revision: 3, family: both, size: 168, any: true, options: conntrackOptions},
	{name: "mark", revision: 1, family: both, size: 16, // struct xt_mark_mtinfo1
		options: []option{{name: "--mark", kind: hexMask, at: 0, also: 4, show: required, not: bit(8, 1, 1)}}},
	{name: "connmark", revision: 1, family: both, size: 16, // struct xt_connmark_mtinfo1
		options: []option{{name: "--mark", kind: hexMask, at: 0, also: 4, show: required, not: bit(8, 1, 1)}}},
	{name: "multiport", revision: 1, family: both, size: 48, protocols: withPorts, // struct xt_multiport_v1
		options: []option{
			{name: "--sports --source-ports", kind: portList, show: required, when: whole(0, 1, 0), not: bit(47, 1, 1)},
			{name: "--dports --destination-ports", kind: portList, show: required, when: whole(0, 1, 1), not: bit(47, 1, 1)},
			{name: "--ports", kind: portList, show: required, when: whole(0, 1, 2), not: bit(47, 1, 1)},
		}},
	{name: "owner", revision: 1, family: both, size: 24, any: true, hooks: 1<<hookOutput | 1<<hookPostrouting, // struct xt_owner_match_info
		options: []option{
			{name: "--socket-exists", when: bit(16, 1, 4), not: bit(17, 1, 4)},
			{name: "--uid-owner", kind: dashed, at: 0, size: 4, when: bit(16, 1, 1), not: bit(17, 1, 1)},
			{name: "--gid-owner", kind: dashed, at: 8, size: 4, when: bit(16, 1, 2), not: bit(17, 1, 2)},
			{name: "--suppl-groups", when: bit(16, 1, 8)},
		}},
	{name: "addrtype", revision: 1, family: both, size: 8, any: true, // struct xt_addrtype_info_v1
		options: []option{
			{name: "--src-type", kind: set, at: 0, size: 2, not: bit(4, 4, 1), words: addressTypes},
			{name: "--dst-type", kind: set, at: 2, size: 2, not: bit(4, 4, 2), words: addressTypes},
			{name: "--limit-iface-in", when: bit(4, 4, 4)},
			{name: "--limit-iface-out", when: bit(4, 4, 8)},
		}},
	{name: "limit", family: both, size: 40, user: 8, // struct xt_rateinfo
		preset: "\x00\x1b\xb7\x00\x05",
		options: []option{
			{name: "--limit", kind: rate, at: 0, show: shown},
			{name: "--limit-burst", kind: decimal, at: 4, size: 4},
		}},
	{name: "tcpmss", family: both, size: 8, protocols: "\x06", // struct xt_tcpmss_match_info
		options: []option{{name: "--mss", kind: span, at: 0, size: 2, show: required, not: bit(4, 1, 1)}}},
	{name: "statistic", family: both, size: 24, user: 12, // struct xt_statistic_info
		options: []option{
			{name: "--mode", kind: choice, at: 0, size: 2, show: required, words: "random=0 nth=1"},
			{name: "--probability", kind: chance, at: 4, show: required, when: whole(0, 2, 0), not: bit(2, 2, 1)},
			{name: "--every", kind: plusOne, at: 4, size: 4, show: required, when: whole(0, 2, 1), not: bit(2, 2, 1)},
			{name: "--packet", kind: decimal, at: 8, size: 4, show: required, when: whole(0, 2, 1)},
		}},
	{name: "socket", revision: 3, family: both, size: 8, hooks: 1<<hookPrerouting | 1<<hookInput, // struct xt_socket_mtinfo3
		options: []option{
			{name: "--transparent", when: bit(0, 1, 1)},
			{name: "--nowildcard", when: bit(0, 1, 2)},
			{name: "--restore-skmark", when: bit(0, 1, 4)},
		}},
}

// conntrackOptions are those of struct xt_conntrack_mtinfo3.
var conntrackOptions = []option{
	{name: "--ctstate", kind: set, at: 150, size: 2, when: bit(146, 2, 1<<0), not: bit(148, 2, 1<<0), words: stateNames},
	{name: "--ctproto", kind: protocol, at: 136, size: 2, when: bit(146, 2, 1<<1), not: bit(148, 2, 1<<1)},
	{name: "--ctorigsrc", kind: network, at: 0, also: 16, when: bit(146, 2, 1<<2), not: bit(148, 2, 1<<2)},
	{name: "--ctorigdst", kind: network, at: 32, also: 48, when: bit(146, 2, 1<<3), not: bit(148, 2, 1<<3)},
	{name: "--ctreplsrc", kind: network, at: 64, also: 80, when: bit(146, 2, 1<<4), not: bit(148, 2, 1<<4)},
	{name: "--ctrepldst", kind: network, at: 96, also: 112, when: bit(146, 2, 1<<5), not: bit(148, 2, 1<<5)},
	{name: "--ctorigsrcport", kind: splitSpan, at: 138, also: 154, size: 2, when: bit(146, 2, 1<<8), not: bit(148, 2, 1<<8)},
	{name: "--ctorigdstport", kind: splitSpan, at: 140, also: 156, size: 2, when: bit(146, 2, 1<<9), not: bit(148, 2, 1<<9)},
	{name: "--ctreplsrcport", kind: splitSpan, at: 142, also: 158, size: 2, when: bit(146, 2, 1<<10), not: bit(148, 2, 1<<10)},
	{name: "--ctrepldstport", kind: splitSpan, at: 144, also: 160, size: 2, when: bit(146, 2, 1<<11), not: bit(148, 2, 1<<11)},
	{name: "--ctstatus", kind: set, at: 152, size: 2, when: bit(146, 2, 1<<6), not: bit(148, 2, 1<<6), words: statusNames},
	{name: "--ctexpire", kind: span, at: 128, size: 4, when: bit(146, 2, 1<<7), not: bit(148, 2, 1<<7)},
	{name: "--ctdir", kind: choice, at: 148, size: 2, when: bit(146, 2, 1<<12), words: "ORIGINAL=0 REPLY=4096"},
}
