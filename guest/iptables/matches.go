package iptables

// Names of values in options; orders are those they are printed in.
var (
	tcpFlagNames = []word{{"FIN", 1}, {"SYN", 2}, {"RST", 4}, {"PSH", 8}, {"ACK", 16}, {"URG", 32}}
	tcpFlagWords = []word{{"FIN", 1}, {"SYN", 2}, {"RST", 4}, {"PSH", 8}, {"ACK", 16}, {"URG", 32}, {"ALL", 63}, {"NONE", 0}}

	// enum ip_conntrack_info as XT_CONNTRACK_STATE_BIT has it.
	stateNames = []word{
		{"INVALID", 1}, {"NEW", 8}, {"RELATED", 4}, {"ESTABLISHED", 2}, {"UNTRACKED", 256}, {"SNAT", 64}, {"DNAT", 128},
	}
	plainStates = stateNames[:5]

	// enum ip_conntrack_status. NONE stands for none.
	statusNames = []word{{"EXPECTED", 1}, {"SEEN_REPLY", 2}, {"ASSURED", 4}, {"CONFIRMED", 8}, {"NONE", 0}}

	// RTN_ of rtnetlink(7), as bits.
	addressTypes = []word{
		{"UNSPEC", 1}, {"UNICAST", 2}, {"LOCAL", 4}, {"BROADCAST", 8}, {"ANYCAST", 16}, {"MULTICAST", 32},
		{"BLACKHOLE", 64}, {"UNREACHABLE", 128}, {"PROHIBIT", 256}, {"THROW", 512}, {"NAT", 1024}, {"XRESOLVE", 2048},
	}
)

// The values of words for icmpType: the type, the lowest code, the highest.
const (
	allCodes = 0x00ff
	icmpAny  = 0xff<<16 | allCodes
)

var icmpNames = []word{
	{"any", icmpAny}, {"echo-reply", 0<<16 | allCodes}, {"pong", 0<<16 | allCodes},
	{"destination-unreachable", 3<<16 | allCodes}, {"network-unreachable", 0x030000}, {"host-unreachable", 0x030101},
	{"protocol-unreachable", 0x030202}, {"port-unreachable", 0x030303}, {"fragmentation-needed", 0x030404},
	{"source-route-failed", 0x030505}, {"network-unknown", 0x030606}, {"host-unknown", 0x030707},
	{"network-prohibited", 0x030909}, {"host-prohibited", 0x030a0a}, {"TOS-network-unreachable", 0x030b0b},
	{"TOS-host-unreachable", 0x030c0c}, {"communication-prohibited", 0x030d0d}, {"host-precedence-violation", 0x030e0e},
	{"precedence-cutoff", 0x030f0f}, {"source-quench", 4<<16 | allCodes}, {"redirect", 5<<16 | allCodes},
	{"network-redirect", 0x050000}, {"host-redirect", 0x050101}, {"TOS-network-redirect", 0x050202},
	{"TOS-host-redirect", 0x050303}, {"echo-request", 8<<16 | allCodes}, {"ping", 8<<16 | allCodes},
	{"router-advertisement", 9<<16 | allCodes}, {"router-solicitation", 10<<16 | allCodes},
	{"time-exceeded", 11<<16 | allCodes}, {"ttl-exceeded", 11<<16 | allCodes},
	{"ttl-zero-during-transit", 0x0b0000}, {"ttl-zero-during-reassembly", 0x0b0101},
	{"parameter-problem", 12<<16 | allCodes}, {"ip-header-bad", 0x0c0000}, {"required-option-missing", 0x0c0101},
	{"timestamp-request", 13<<16 | allCodes}, {"timestamp-reply", 14<<16 | allCodes},
	{"address-mask-request", 17<<16 | allCodes}, {"address-mask-reply", 18<<16 | allCodes},
}

var icmp6Names = []word{
	{"destination-unreachable", 1<<16 | allCodes}, {"no-route", 0x010000}, {"communication-prohibited", 0x010101},
	{"beyond-scope", 0x010202}, {"address-unreachable", 0x010303}, {"port-unreachable", 0x010404},
	{"failed-policy", 0x010505}, {"reject-route", 0x010606}, {"packet-too-big", 2<<16 | allCodes},
	{"time-exceeded", 3<<16 | allCodes}, {"ttl-exceeded", 3<<16 | allCodes}, {"ttl-zero-during-transit", 0x030000},
	{"ttl-zero-during-reassembly", 0x030101}, {"parameter-problem", 4<<16 | allCodes}, {"bad-header", 0x040000},
	{"unknown-header-type", 0x040101}, {"unknown-option", 0x040202}, {"echo-request", 128<<16 | allCodes},
	{"ping", 128<<16 | allCodes}, {"echo-reply", 129<<16 | allCodes}, {"pong", 129<<16 | allCodes},
	{"mld-listener-query", 130<<16 | allCodes}, {"mld-listener-report", 131<<16 | allCodes},
	{"mld-listener-done", 132<<16 | allCodes}, {"mld-listener-reduction", 132<<16 | allCodes},
	{"router-solicitation", 133<<16 | allCodes}, {"router-advertisement", 134<<16 | allCodes},
	{"neighbour-solicitation", 135<<16 | allCodes}, {"neighbor-solicitation", 135<<16 | allCodes},
	{"neighbour-advertisement", 136<<16 | allCodes}, {"neighbor-advertisement", 136<<16 | allCodes},
	{"redirect", 137<<16 | allCodes},
}

const withPorts = "\x06\x11\x21\x84\x88" // TCP, UDP, DCCP, SCTP, UDP-Lite

// matches are the matches that the text may name, in the revisions that the
// tools of iptables 1.8 use. Like all tables here it is never written to.
var matches = []extension{
	{name: "tcp", family: both, size: 16, protocols: "\x06", // struct xt_tcp
		preset: []cell{whole(2, 2, 0xffff), whole(6, 2, 0xffff)},
		options: []option{
			{name: "--sport", alias: "--source-port", kind: span, at: 0, size: 2, not: bit(11, 1, 1)},
			{name: "--dport", alias: "--destination-port", kind: span, at: 4, size: 2, not: bit(11, 1, 2)},
			{name: "--tcp-option", kind: decimal, at: 8, size: 1, not: bit(11, 1, 8)},
			{name: "--tcp-flags", kind: tcpFlags, at: 9, size: 2, not: bit(11, 1, 4)},
			{name: "--syn", when: whole(9, 2, 0x0217), not: bit(11, 1, 4), show: hidden},
		}},
	{name: "udp", family: both, size: 16, protocols: "\x11", // struct xt_udp
		preset: []cell{whole(2, 2, 0xffff), whole(6, 2, 0xffff)},
		options: []option{
			{name: "--sport", alias: "--source-port", kind: span, at: 0, size: 2, not: bit(8, 1, 1)},
			{name: "--dport", alias: "--destination-port", kind: span, at: 4, size: 2, not: bit(8, 1, 2)},
		}},
	{name: "icmp", family: IPv4, size: 8, protocols: "\x01", // struct ipt_icmp
		preset:  []cell{whole(0, 1, 0xff), whole(2, 1, 0xff)},
		options: []option{{name: "--icmp-type", kind: icmpType, show: shown, not: bit(3, 1, 1), words: icmpNames}}},
	{name: "icmp6", family: IPv6, size: 8, protocols: "\x3a", need: "--icmpv6-type", // struct ip6t_icmp
		preset:  []cell{whole(2, 1, 0xff)},
		options: []option{{name: "--icmpv6-type", alias: "--icmp6-type", kind: icmpType, show: shown, not: bit(3, 1, 1), words: icmp6Names}}},
	{name: "comment", family: both, size: 256, need: "--comment", // struct xt_comment_info
		options: []option{{name: "--comment", kind: quoted, also: 256, show: shown}}},
	{name: "state", kernel: "conntrack", revision: 3, family: both, size: 168, need: "--state",
		always:  bit(146, 2, 1<<13), // XT_CONNTRACK_STATE_ALIAS
		options: []option{{name: "--state", kind: set, at: 150, size: 2, when: bit(146, 2, 1), not: bit(148, 2, 1), words: plainStates}}},
	{name: "conntrack", revision: 3, family: both, size: 168, need: "*", options: conntrackOptions},
	{name: "mark", revision: 1, family: both, size: 16, need: "--mark", // struct xt_mark_mtinfo1
		options: []option{{name: "--mark", kind: hexMask, at: 0, also: 4, show: shown, not: bit(8, 1, 1)}}},
	{name: "connmark", revision: 1, family: both, size: 16, need: "--mark", // struct xt_connmark_mtinfo1
		options: []option{{name: "--mark", kind: hexMask, at: 0, also: 4, show: shown, not: bit(8, 1, 1)}}},
	{name: "multiport", revision: 1, family: both, size: 48, protocols: withPorts, // struct xt_multiport_v1
		options: []option{
			{name: "--sports", alias: "--source-ports", kind: portList, show: required, when: whole(0, 1, 0), not: bit(47, 1, 1)},
			{name: "--dports", alias: "--destination-ports", kind: portList, show: required, when: whole(0, 1, 1), not: bit(47, 1, 1)},
			{name: "--ports", kind: portList, show: required, when: whole(0, 1, 2), not: bit(47, 1, 1)},
		}},
	{name: "owner", revision: 1, family: both, size: 24, need: "*", hooks: 1<<hookOutput | 1<<hookPostrouting, // struct xt_owner_match_info
		options: []option{
			{name: "--socket-exists", when: bit(16, 1, 4), not: bit(17, 1, 4)},
			{name: "--uid-owner", kind: dashed, at: 0, size: 4, when: bit(16, 1, 1), not: bit(17, 1, 1)},
			{name: "--gid-owner", kind: dashed, at: 8, size: 4, when: bit(16, 1, 2), not: bit(17, 1, 2)},
			{name: "--suppl-groups", when: bit(16, 1, 8)},
		}},
	{name: "addrtype", revision: 1, family: both, size: 8, need: "*", // struct xt_addrtype_info_v1
		options: []option{
			{name: "--src-type", kind: set, at: 0, size: 2, not: bit(4, 4, 1), words: addressTypes},
			{name: "--dst-type", kind: set, at: 2, size: 2, not: bit(4, 4, 2), words: addressTypes},
			{name: "--limit-iface-in", when: bit(4, 4, 4)},
			{name: "--limit-iface-out", when: bit(4, 4, 8)},
		}},
	{name: "limit", family: both, size: 40, user: 8, // struct xt_rateinfo
		preset: []cell{whole(0, 4, rateScale*3600/3), whole(4, 4, 5)},
		options: []option{
			{name: "--limit", kind: rate, at: 0, show: shown},
			{name: "--limit-burst", kind: decimal, at: 4, size: 4},
		}},
	{name: "tcpmss", family: both, size: 8, protocols: "\x06", need: "--mss", // struct xt_tcpmss_match_info
		options: []option{{name: "--mss", kind: span, at: 0, size: 2, show: shown, not: bit(4, 1, 1)}}},
	{name: "statistic", family: both, size: 24, user: 12, need: "--mode", // struct xt_statistic_info
		options: []option{
			{name: "--mode", kind: choice, at: 0, size: 2, show: shown, words: []word{{"random", 0}, {"nth", 1}}},
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
	{name: "--ctdir", kind: choice, at: 148, size: 2, when: bit(146, 2, 1<<12), words: []word{{"ORIGINAL", 0}, {"REPLY", 1 << 12}}},
}
