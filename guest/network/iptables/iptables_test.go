package iptables

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// saved returns what iptables-legacy-save 1.8.9 printed, without its comments,
// for rules that use every match and target that are known by name.
func saved(t testing.TB, f Family) string {
	t.Helper()
	text, err := os.ReadFile(map[Family]string{IPv4: "testdata/ipv4.txt", IPv6: "testdata/ipv6.txt"}[f])
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// there and back: a text in the kernel's form, and in text again.
func thereAndBack(f Family, text string) (string, error) {
	parsed, err := parse(f, []byte(text))
	if err != nil {
		return "", err
	}
	p := &printer{family: f}
	for _, t := range parsed.tables {
		b, counters := t.encode()
		if len(counters) != int(b.number)*countersSize {
			return "", fmt.Errorf("%d bytes of counters for %d entries", len(counters), b.number)
		}
		decoded, err := b.decode(f)
		if err != nil {
			return "", err
		}
		if err := p.table(decoded); err != nil {
			return "", err
		}
	}
	return string(p.text), nil
}

func TestTextSurvivesTheKernelsForm(t *testing.T) {
	for _, f := range []Family{IPv4, IPv6} {
		want := saved(t, f)
		got, err := thereAndBack(f, want)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
	}
}

// filter returns the text of a table with some rules.
func filter(lines ...string) string { return "*filter\n" + strings.Join(lines, "\n") + "\nCOMMIT\n" }

func TestOtherWaysToSayIt(t *testing.T) {
	for _, tt := range []struct {
		name   string
		family Family
		lines  []string
		want   []string // the rules that come out
	}{
		{"long names", IPv4, []string{"--append INPUT --source 10.0.0.1 --destination 10.0.0.2/255.255.0.0 --in-interface lo --protocol 6 --match tcp --source-port 1: --destination-port :5 --jump DROP"},
			[]string{"-A INPUT -s 10.0.0.1/32 -d 10.0.0.0/16 -i lo -p tcp -m tcp --sport 1:65535 --dport 0:5 -j DROP"}},
		{"several addresses", IPv4, []string{"-A INPUT -s 10/8,1.2.3.4 -d 5.6.7.8,9.9.9.9/0 -j DROP"},
			[]string{"-A INPUT -s 10.0.0.0/8 -d 5.6.7.8/32 -j DROP", "-A INPUT -s 10.0.0.0/8 -j DROP",
				"-A INPUT -s 1.2.3.4/32 -d 5.6.7.8/32 -j DROP", "-A INPUT -s 1.2.3.4/32 -j DROP"}},
		{"a match that -p implies", IPv4, []string{"-A INPUT -p udp --dport 53 -j ACCEPT"}, []string{"-A INPUT -p udp -m udp --dport 53 -j ACCEPT"}},
		{"insertions", IPv4, []string{"-A INPUT -i a", "-I INPUT -i b", "-I INPUT 2 -i c", "-I INPUT 4 -i d"},
			[]string{"-A INPUT -i b", "-A INPUT -i c", "-A INPUT -i a", "-A INPUT -i d"}},
		{"chains made, emptied and given policies", IPv4, []string{"-N x", "-A x -j DROP", "-A INPUT -j x", "-F x", "-P OUTPUT DROP"}, []string{"-A INPUT -j x"}},
		{"blanks, comments and counters", IPv4, []string{"# -A INPUT", "", "\t[1:2]  -A   INPUT\t-j ACCEPT \r", "[3:0x4] -A INPUT -c 5 6"}, []string{"-A INPUT -j ACCEPT", "-A INPUT"}},
		{"lines of one family", IPv4, []string{"-A INPUT -4 -j DROP", "-A INPUT -6 -j ACCEPT"}, []string{"-A INPUT -j DROP"}},
		{"lines of the other family", IPv6, []string{"-A INPUT --ipv4 -j DROP", "-A INPUT --ipv6 -j ACCEPT"}, []string{"-A INPUT -j ACCEPT"}},
		{"names of ICMP", IPv6, []string{"-A INPUT -p icmpv6 --icmpv6-type neighbor-solicitation", "-A INPUT -p ipv6-icmp -m icmpv6 --icmpv6-type port-unreachable"},
			[]string{"-A INPUT -p ipv6-icmp -m icmp6 --icmpv6-type 135", "-A INPUT -p ipv6-icmp -m icmp6 --icmpv6-type 1/4"}},
		{"a comment with everything", IPv4, []string{`-A INPUT -m comment --comment "a \"b\" \\ # 'c' "`}, []string{`-A INPUT -m comment --comment "a \"b\" \\ # \'c\' "`}},
		{"a comment of nothing", IPv4, []string{`-A INPUT -m comment --comment ""`}, []string{`-A INPUT -m comment --comment ""`}},
		{"bytes", IPv4, []string{"-A INPUT -m frobnicate --kata-raw 7:0102030405060708 -j NFLOG --kata-raw 0:" + strings.Repeat("00", 80)},
			[]string{"-A INPUT -m frobnicate --kata-raw 7:0102030405060708 -j NFLOG --kata-raw 0:" + strings.Repeat("00", 80)}},
		{"bytes that have a text", IPv4, []string{"-A INPUT -m mark --kata-raw 1:05000000ff0000000000000000000000"}, []string{"-A INPUT -m mark --mark 0x5/0xff"}},
		{"bytes that a text would hide", IPv4, []string{"-A INPUT -m mark --kata-raw 1:05000000ff0000000000000000000001"}, []string{"-A INPUT -m mark --kata-raw 1:05000000ff0000000000000000000001"}},
		{"a device of any name", IPv4, []string{"-A INPUT -i +"}, []string{"-A INPUT"}},
		{"marks", IPv4, []string{"-A INPUT -j MARK --or-mark 0x10", "-A INPUT -j MARK --and-mark 0xf", "-A INPUT -j MARK --xor-mark 3", "-A INPUT -j CONNMARK --save-mark --mask 7"},
			[]string{"-A INPUT -j MARK --set-xmark 0x10/0x10", "-A INPUT -j MARK --set-xmark 0x0/0xfffffff0", "-A INPUT -j MARK --set-xmark 0x3/0x0",
				"-A INPUT -j CONNMARK --save-mark --nfmask 0x7 --ctmask 0x7"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			text, err := thereAndBack(tt.family, filter(tt.lines...))
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for line := range strings.Lines(text) {
				if strings.HasPrefix(line, "-A") {
					got = append(got, strings.TrimSuffix(line, "\n"))
				}
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestConntrackZones(t *testing.T) {
	// The guest's kernel has none; iptables-legacy-save prints these lines so.
	text := "*raw\n:PREROUTING ACCEPT [0:0]\n:OUTPUT DROP [0:0]\n-A PREROUTING -j CT --zone 5\n-A PREROUTING -j CT --zone mark\n" +
		"-A OUTPUT -j CT --zone-orig mark\n-A OUTPUT -j CT --zone-reply 3\n-A OUTPUT -j CT --helper ftp --timeout slow\nCOMMIT\n"
	got, err := thereAndBack(IPv4, text)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(text, got); diff != "" {
		t.Error(diff)
	}
}

func TestMistakesAreNamed(t *testing.T) {
	for _, tt := range []struct {
		text string
		want string // the error
	}{
		{"-A INPUT", `line 1: "-A INPUT": it is outside a table, which begins with *NAME`},
		{"*filter\n", `line 2: COMMIT is missing for the table filter`},
		{"*filter\n*nat\nCOMMIT\n", `line 2: "*nat": COMMIT is missing for the table filter`},
		{"*filter\nCOMMIT\nCOMMIT\n", `line 3: "COMMIT": it is outside a table, which begins with *NAME`},
		{"*nope\nCOMMIT\n", `line 1: table "nope": there is no such table`},
		{filter("-A NOPE -j DROP"), `line 2: chain "NOPE": there is no such chain`},
		{filter("-A INPUT -j nope"), `line 2: -j "nope": there is no such chain or target`},
		{filter("-A INPUT -j FORWARD"), `line 2: -j "FORWARD": it is a built-in chain`},
		{filter(":x - [0:0]", ":x - [0:0]"), `line 3: chain "x": there is one already`},
		{filter(":x ACCEPT"), `line 2: policy "ACCEPT": a chain that is not built in has none, but -`},
		{filter(":INPUT REJECT"), `line 2: policy "REJECT": it is neither ACCEPT nor DROP`},
		{filter(":INPUT"), `line 2: ":INPUT": it is not :CHAIN POLICY [PACKETS:BYTES]`},
		{filter(":INPUT DROP [1]"), `line 2: counters "[1]": they are not [PACKETS:BYTES]`},
		{filter(":ACCEPT -"), `line 2: chain "ACCEPT": it is the name of a target`},
		{filter(":" + strings.Repeat("x", 29) + " -"), `line 2: chain "` + strings.Repeat("x", 29) + `": a name has from 1 to 28 bytes`},
		{filter("[1:x] -A INPUT"), `line 2: the counters are not [PACKETS:BYTES]`},
		{filter("-D INPUT 1"), `line 2: "-D": a line begins with -A, -I, -N, -P, -F, #, :CHAIN or COMMIT`},
		{filter("-A INPUT -I 3"), `line 2: "-I": there is no such option here`},
		{filter("-I INPUT 3 -j DROP"), `line 2: -I "INPUT": the chain has no place 3`},
		{filter("-A INPUT --frob 3"), `line 2: "--frob": there is no such option here`},
		{filter("-A INPUT frob"), `line 2: "frob": there is no such option here`},
		{filter("-A INPUT -s host.example"), `line 2: -s "host.example": it is not an address`},
		{filter("-A INPUT -s ::1"), `line 2: -s "::1": it is not an address`},
		{filter("-A INPUT ! -s 1.1.1.1,2.2.2.2"), `line 2: -s "1.1.1.1,2.2.2.2": several addresses cannot be negated`},
		{filter("-A INPUT -i abcdefghijklmnop"), `line 2: -i "abcdefghijklmnop": it is not the name of a network device`},
		{filter("-A INPUT -p nope"), `line 2: -p "nope": it is not a protocol`},
		{filter("-A INPUT ! -p all"), `line 2: -p "all": no packet has no protocol`},
		{filter("-A INPUT -p"), `line 2: -p: its value is missing`},
		{filter("-A INPUT -p tcp -p udp"), `line 2: -p: it is there twice`},
		{filter("-A INPUT -m frobnicate --count 3"), `line 2: -m "frobnicate": there is no such match`},
		{filter("-A INPUT -m tcp --dport 80"), `line 2: tcp: it needs -p tcp`},
		{filter("-A INPUT ! -p tcp -m tcp --dport 80"), `line 2: tcp: it needs -p tcp`},
		{filter("-A INPUT -p tcp --dport http"), `line 2: --dport "http": it is not a value of this option`},
		{filter("-A INPUT -p tcp --dport 70000"), `line 2: --dport "70000": it is not a value of this option`},
		{filter("-A INPUT -p tcp --dport 5:4"), `line 2: --dport "5:4": it is not a value of this option`},
		{filter("-A INPUT -p tcp --dport 5 --dport 6"), `line 2: --dport: it is there twice`},
		{filter("-A INPUT -p tcp --tcp-flags SYN,X SYN"), `line 2: --tcp-flags "SYN,X SYN": it is not a value of this option`},
		{filter("-A INPUT -m conntrack --ctstate NEW,OLD"), `line 2: --ctstate "NEW,OLD": it is not a value of this option`},
		{filter("-A INPUT -m conntrack"), `line 2: conntrack: it has no options`},
		{filter("-A INPUT -p tcp -m multiport"), `line 2: multiport: --sports is missing`},
		{filter("-A INPUT -p tcp -m multiport --dports 1 --sports 2"), `line 2: --sports: it cannot go with --dports`},
		{filter("-A INPUT -p tcp -m multiport --dports 1,2,3,4,5,6,7,8,9,10,11,12,13,14,15:16"), `line 2: --dports "1,2,3,4,5,6,7,8,9,10,11,12,13,14,15:16": it has more than 15 ports, a range counting as two`},
		{filter("-A INPUT -m mark"), `line 2: mark: --mark is missing`},
		{filter("-A INPUT ! -m mark --mark 1"), `line 2: -m: it cannot be negated`},
		{filter("-A INPUT -m limit ! --limit 1/s"), `line 2: --limit: it cannot be negated`},
		{filter("-A INPUT -m limit --limit 20000/s"), `line 2: --limit "20000/s": it is too fast`},
		{filter("-A INPUT -m statistic --mode nth --probability 0.5"), `line 2: --probability: it cannot go with what is before it`},
		{filter("-A INPUT -m statistic --mode random"), `line 2: statistic: --probability is missing`},
		{filter("-A INPUT -m owner --uid-owner root"), `line 2: --uid-owner "root": it is not a value of this option`},
		{filter("-A INPUT -m owner --uid-owner 0"), `line 2: owner has no place in the chain INPUT or what it leads to`},
		{filter("-A INPUT -m comment --comment " + strings.Repeat("x", 256)), `line 2: --comment "` + strings.Repeat("x", 80) + `"...: it is longer than 255 bytes`},
		{filter(`-A INPUT -m comment --comment "x`), `line 2: a quotation mark is missing`},
		{filter("-A INPUT -j DROP -j ACCEPT"), `line 2: -j: it is there twice`},
		{filter("-A INPUT -g DROP"), `line 2: -g "DROP": there is no such chain or target`},
		{filter("-A INPUT -j MASQUERADE"), `line 2: -j "MASQUERADE": it is for the table nat`},
		{filter("-A INPUT -j REJECT --reject-with tcp-reset"), `line 2: --reject-with tcp-reset: it needs -p tcp`},
		{filter("-A FORWARD -p tcp -j TCPMSS --set-mss 1"), `line 2: TCPMSS: it needs --syn, or --tcp-flags with SYN set`},
		{filter("-A FORWARD -j MARK"), `line 2: MARK: it has no options`},
		{filter("-A FORWARD -m x --kata-raw 1:0g"), `line 2: --kata-raw "1:0g": it is not REVISION:BYTES`},
		{filter("-A FORWARD -j ERROR --kata-raw 0:" + strings.Repeat("00", 32)), `line 2: --kata-raw "ERROR": it is not a name`},
		{filter("-A INPUT\x00"), `line 2: there is a zero byte`},
		{filter(":a -", ":b -", "-A a -j b", "-A b -j a", "-A INPUT -j a"), `line 5: the chain "a" leads to itself`},
		{"*nat\n-A POSTROUTING -j SNAT\nCOMMIT", `line 2: SNAT: --to-source is missing`},
		{"*nat\n-A POSTROUTING -j SNAT --to-source 1.1.1.1:80\nCOMMIT", `line 2: --to-source with a port: it needs -p tcp or udp or dccp or sctp or udplite or icmp or ipv6-icmp`},
		{"*nat\n-A POSTROUTING -j SNAT --to-source 1.1.1.9-1.1.1.1\nCOMMIT", `line 2: --to-source "1.1.1.9-1.1.1.1": the range ends before it begins`},
		{"*nat\n:x -\n-A x -j MASQUERADE\n-A PREROUTING -j x\nCOMMIT", `line 3: MASQUERADE has no place in the chain PREROUTING or what it leads to`},
		{filter("-A INPUT -s " + strings.Repeat("1.1.1.1,", 299) + "1.1.1.1"), `line 2: -s: the line stands for too many rules`},
		{filter(strings.Repeat("-A INPUT\n", maxRules+1)), `line 32770: there are more than 32768 rules and chains`},
	} {
		_, err := parse(IPv4, []byte(tt.text))
		syntax := (*SyntaxError)(nil)
		if !errors.As(err, &syntax) || err.Error() != tt.want {
			t.Errorf("%.100q:\n got %v\nwant %s", tt.text, err, tt.want)
		}
	}
}

func TestNothingToReplaceIsNoMistake(t *testing.T) {
	for _, text := range []string{"# a comment\n", "\n\n", "*filter\nCOMMIT", "*nat\n:PREROUTING ACCEPT [1:2]\nCOMMIT\n# end"} {
		if _, err := parse(IPv4, []byte(text)); err != nil {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func TestAddressesAreThoseOfEverybody(t *testing.T) {
	for _, s := range []string{
		"::", "::1", "1::", "fe80::1", "1:2:3:4:5:6:7:8", "1:0:0:2::3", "1:2:3:4:5:6:0:8", "2001:db8::a:b", "::ffff:1.2.3.4",
		"1::8", "0:0:1::", "ff02::1:ff00:1", "64:ff9b::1.2.3.4", "0:1:2:3:4:5:6:7", "1:2:3:4:5:6:7::",
		":::", "1:::2", "::1::", "1:2:3:4:5:6:7", "1:2:3:4:5:6:7:8:9", "12345::", "g::", ":1", "1:", "::1.2.3", "1.2.3.4::", "::1.2.3.4:5", "",
	} {
		want, err := netip.ParseAddr(s)
		var got [16]byte
		if ok := parseAddress(IPv6, got[:], s); ok != (err == nil) {
			t.Errorf("%q: %v, but %v", s, ok, err)
			continue
		}
		if err != nil {
			continue
		}
		if got != want.As16() {
			t.Errorf("%q: %x, want %x", s, got, want.As16())
		}
		p := &printer{family: IPv6}
		p.address(got[:])
		if string(p.text) != want.String() {
			t.Errorf("%q is printed as %s, want %s", s, p.text, want)
		}
	}
}

// FuzzText reads texts; what can be read comes back the same from the kernel's
// form.
func FuzzText(f *testing.F) {
	f.Add(true, saved(f, IPv4))
	f.Add(false, saved(f, IPv6))
	for _, text := range []string{filter("-A INPUT -m x --kata-raw 1:0102030405060708"), filter(":a -", "-I INPUT 1 -g a"), filter("-A INPUT -c 1 2 -s 1.1.1.1,2.2.2.2")} {
		f.Add(true, text)
	}
	f.Fuzz(func(t *testing.T, is4 bool, text string) {
		family := IPv6
		if is4 {
			family = IPv4
		}
		once, err := thereAndBack(family, text)
		if syntax := (*SyntaxError)(nil); errors.As(err, &syntax) {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		twice, err := thereAndBack(family, once)
		if err != nil {
			t.Fatalf("%v in its own text:\n%s", err, once)
		}
		if once != twice {
			t.Fatalf("it reads\n%s\nand then\n%s", once, twice)
		}
	})
}

// FuzzKernel decodes tables that no kernel would make.
func FuzzKernel(f *testing.F) {
	for _, family := range []Family{IPv4, IPv6} {
		parsed, err := parse(family, []byte(saved(f, family)))
		if err != nil {
			f.Fatal(err)
		}
		for _, t := range parsed.tables {
			b, _ := t.encode()
			f.Add(family == IPv4, b.validHooks, b.hookEntry[hookInput], b.hookEntry[hookOutput], b.entries)
		}
	}
	f.Fuzz(func(_ *testing.T, is4 bool, valid, input, output uint32, entries []byte) {
		family := IPv6
		if is4 {
			family = IPv4
		}
		b := &blob{name: "filter", validHooks: valid, number: 1, entries: bytes.Clone(entries)}
		b.hookEntry[hookInput], b.hookEntry[hookOutput] = input, output
		if t, err := b.decode(family); err == nil {
			_ = (&printer{family: family}).table(t)
		}
	})
}

func TestChancesAreThoseOfPrintf(t *testing.T) {
	for _, part := range []uint32{0, 1, 3, 1 << 19, 3 << 19, 708669604, 1<<30 + 1, 1<<31 - 1, 1 << 31} {
		p := &printer{}
		p.chance(part)
		if want := fmt.Sprintf("%.11f", float64(part)/(1<<31)); string(p.text) != want {
			t.Errorf("%d: %s, want %s", part, p.text, want)
		}
		var data [4]byte
		if !parseChance(data[:], string(p.text)) || number(data[:], 4) != part {
			t.Errorf("%s is read as %d, not %d", p.text, number(data[:], 4), part)
		}
	}
	for _, wrong := range []string{"", ".", "1.1", "2", "-0.5", "0.x", "0.5 "} {
		if parseChance(make([]byte, 4), wrong) {
			t.Errorf("%q is taken", wrong)
		}
	}
}

func TestErrorsOfTheText(t *testing.T) {
	for _, tt := range []struct {
		err  error
		want bool
	}{
		{&SyntaxError{Line: 3, Reason: "it is wrong"}, true},
		{fmt.Errorf("x: %w", &RefusedError{Table: "nat", Err: unix.EINVAL}), true},
		{&RefusedError{Table: "nat", Err: ErrNoTable}, true},
		{&RefusedError{Table: "nat", Err: unix.ENOMEM}, false},
		{unix.EPERM, false},
	} {
		if got := IsTextError(tt.err); got != tt.want {
			t.Errorf("%v: %v", tt.err, got)
		}
	}
}
