package iptables

// verdicts are the targets that are not extensions, with their negated verdicts.
const verdicts = "ACCEPT=2 DROP=1 QUEUE=4 RETURN=5"

// Names of values in options.
const (
	rejectNames = "icmp-net-unreachable=0 net-unreach=0 icmp-host-unreachable=1 host-unreach=1 icmp-proto-unreachable=2 " +
		"proto-unreach=2 icmp-port-unreachable=3 port-unreach=3 icmp-net-prohibited=5 net-prohib=5 " +
		"icmp-host-prohibited=6 host-prohib=6 tcp-reset=7 tcp-rst=7 icmp-admin-prohibited=8 admin-prohib=8"
	reject6Names = "icmp6-no-route=0 no-route=0 icmp6-adm-prohibited=1 adm-prohibited=1 icmp6-addr-unreachable=3 " +
		"addr-unreach=3 icmp6-port-unreachable=4 port-unreach=4 tcp-reset=6 icmp6-policy-fail=7 policy-fail=7 " +
		"icmp6-reject-route=8 reject-route=8"
	logLevels = "emerg=0 panic=0 alert=1 crit=2 error=3 err=3 warning=4 warn=4 notice=5 info=6 debug=7"
)

const (
	atSource      = 1<<hookInput | 1<<hookPostrouting
	atDestination = 1<<hookPrerouting | 1<<hookOutput
)

// Flags of include/uapi/linux/netfilter/nf_nat.h.
const (
	natMapIPs     = 1
	natPorts      = 2
	natRandom     = 4
	natPersistent = 8
	natFully      = 16
	natOffset     = 32
)

// targets are the targets that are extensions, in the revisions that the tools
// of iptables 1.8 use.
var targets = []extension{
	{name: "REJECT", family: IPv4, size: 8, table: "filter", // struct ipt_reject_info
		preset:  "\x03",
		options: []option{{name: "--reject-with", kind: choice, at: 0, size: 4, show: shown, words: rejectNames}}},
	{name: "REJECT", family: IPv6, size: 8, table: "filter", // struct ip6t_reject_info
		preset:  "\x04",
		options: []option{{name: "--reject-with", kind: choice, at: 0, size: 4, show: shown, words: reject6Names}}},
	{name: "LOG", family: both, size: 32, // struct xt_log_info
		preset: "\x04",
		options: []option{
			{name: "--log-prefix", kind: quoted, at: 2, also: 29},
			{name: "--log-level", kind: decimal, at: 0, size: 1, words: logLevels},
			{name: "--log-tcp-sequence", when: bit(1, 1, 1)},
			{name: "--log-tcp-options", when: bit(1, 1, 2)},
			{name: "--log-ip-options", when: bit(1, 1, 4)},
			{name: "--log-uid", when: bit(1, 1, 8)},
			{name: "--log-macdecode", when: bit(1, 1, 32)},
		}},
	{name: "MARK", revision: 2, family: both, size: 8, any: true, // struct xt_mark_tginfo2
		options: []option{
			{name: "--set-xmark", kind: hexBoth, at: 0, also: 4, show: shown},
			{name: "--set-mark", kind: orMask, at: 0, also: 4, show: hidden},
			{name: "--and-mark", kind: andBits, at: 0, also: 4, show: hidden},
			{name: "--or-mark", kind: orBits, at: 0, also: 4, show: hidden},
			{name: "--xor-mark", kind: xorBits, at: 0, also: 4, show: hidden},
		}},
	{name: "CONNMARK", revision: 2, family: both, size: 16, any: true, // struct xt_connmark_tginfo2
		preset: "\x00\x00\x00\x00\xff\xff\xff\xff\xff\xff\xff\xff",
		options: []option{
			{name: "--set-xmark", kind: hexBoth, at: 0, also: 4, when: whole(14, 1, 0), show: shown},
			{name: "--set-mark", kind: orMask, at: 0, also: 4, when: whole(14, 1, 0), show: hidden},
			{name: "--and-mark", kind: andBits, at: 0, also: 4, when: whole(14, 1, 0), show: hidden},
			{name: "--or-mark", kind: orBits, at: 0, also: 4, when: whole(14, 1, 0), show: hidden},
			{name: "--xor-mark", kind: xorBits, at: 0, also: 4, when: whole(14, 1, 0), show: hidden},
			{name: "--save-mark", kind: copyMarks, when: whole(14, 1, 1)},
			{name: "--restore-mark", kind: copyMarks, when: whole(14, 1, 2)},
			{name: "--nfmask", kind: hexValue, at: 8, show: hidden},
			{name: "--ctmask", kind: hexValue, at: 4, show: hidden},
			{name: "--mask", kind: bothMasks, at: 4, also: 8, show: hidden},
		}},
	{name: "SNAT", family: IPv4, size: 24, table: "nat", hooks: atSource,
		preset: "\x01", options: snatOptions},
	{name: "SNAT", revision: 1, family: IPv6, size: 40, table: "nat", hooks: atSource,
		options: snat6Options},
	{name: "DNAT", revision: 2, family: both, size: 48, table: "nat", hooks: atDestination,
		options: dnatOptions},
	{name: "MASQUERADE", family: IPv4, size: 24, table: "nat", hooks: 1 << hookPostrouting,
		preset: "\x01", options: masqueradeOptions},
	{name: "MASQUERADE", family: IPv6, size: 40, table: "nat", hooks: 1 << hookPostrouting,
		options: masquerade6Options},
	{name: "REDIRECT", family: IPv4, size: 24, table: "nat", hooks: atDestination,
		preset: "\x01", options: redirectOptions},
	{name: "REDIRECT", family: IPv6, size: 40, table: "nat", hooks: atDestination,
		options: redirect6Options},
	{name: "TPROXY", revision: 1, family: both, size: 32, protocols: "\x06\x11", table: "mangle", hooks: 1 << hookPrerouting,
		// struct xt_tproxy_target_info_v1
		options: []option{
			{name: "--on-port", kind: bigEndian, at: 24, show: required},
			{name: "--on-ip", kind: address, at: 8, show: shown},
			{name: "--tproxy-mark", kind: hexBoth, at: 4, also: 0, show: shown},
		}},
	{name: "TCPMSS", family: both, size: 8, protocols: "\x06", any: true, // struct xt_tcpmss_info
		preset: "\xff\xff",
		hooks:  1<<hookForward | 1<<hookOutput | 1<<hookPostrouting,
		options: []option{
			{name: "--clamp-mss-to-pmtu", when: whole(0, 2, 0xffff)},
			{name: "--set-mss", kind: decimal, at: 0, size: 2},
		}},
	{name: "NOTRACK", kernel: "CT", revision: 2, family: both, size: 72, user: 64, table: "raw",
		always: bit(0, 2, 3)}, // XT_CT_NOTRACK and XT_CT_NOTRACK_ALIAS
	{name: "CT", revision: 2, family: both, size: 72, user: 64, table: "raw", // struct xt_ct_target_info_v1
		options: []option{
			{name: "--notrack", when: bit(0, 2, 1)},
			{name: "--helper", kind: quoted, at: 12, also: 15},
			{name: "--timeout", kind: quoted, at: 28, also: 31},
			{name: "--zone", kind: zone, at: 2, size: 2, when: cell{0, 2, 4 | 8, 0}},
			{name: "--zone-orig", kind: zone, at: 2, size: 2, when: cell{0, 2, 4 | 8, 4}},
			{name: "--zone-reply", kind: zone, at: 2, size: 2, when: cell{0, 2, 4 | 8, 8}},
		}},
}

// The options of targets that translate addresses: struct
// nf_nat_ipv4_multi_range_compat, whose flags are at 4, and struct nf_nat_range
// and nf_nat_range2, whose flags are at 0.
var (
	snatOptions = []option{
		{name: "--to-source", kind: natCompat, at: 4, show: required},
		{name: "--random", when: bit(4, 4, natRandom)},
		{name: "--random-fully", when: bit(4, 4, natFully)},
		{name: "--persistent", when: bit(4, 4, natPersistent)},
	}
	snat6Options = []option{
		{name: "--to-source", kind: natRange, show: required},
		{name: "--random", when: bit(0, 4, natRandom)},
		{name: "--random-fully", when: bit(0, 4, natFully)},
		{name: "--persistent", when: bit(0, 4, natPersistent)},
	}
	dnatOptions = []option{
		{name: "--to-destination", kind: natRange2, show: required},
		{name: "--random", when: bit(0, 4, natRandom)},
		{name: "--persistent", when: bit(0, 4, natPersistent)},
	}
	masqueradeOptions = []option{
		{name: "--to-ports", kind: natPorts4, at: 4, when: bit(4, 4, natPorts)},
		{name: "--random", when: bit(4, 4, natRandom)},
		{name: "--random-fully", when: bit(4, 4, natFully)},
	}
	masquerade6Options = []option{
		{name: "--to-ports", kind: natPorts6, when: bit(0, 4, natPorts)},
		{name: "--random", when: bit(0, 4, natRandom)},
		{name: "--random-fully", when: bit(0, 4, natFully)},
	}
	redirectOptions = []option{
		{name: "--to-ports", kind: natPorts4, at: 4, when: bit(4, 4, natPorts)},
		{name: "--random", when: bit(4, 4, natRandom)},
	}
	redirect6Options = []option{
		{name: "--to-ports", kind: natPorts6, when: bit(0, 4, natPorts)},
		{name: "--random", when: bit(0, 4, natRandom)},
	}
)
