package netdev

import (
	"net/netip"
	"testing"
)

var addresses = []string{
	"", "0.0.0.0", "10.0.0.1", "255.255.255.255", "1.2.3", "1.2.3.4.5", "01.2.3.4", "1.2.3.256", "1..2.3", "1.2.3.", ".1.2.3", "1.2.3.4 ", "1.2.3.+4",
	"::", "::1", "1::", "fe80::1", "fd00:1:2:3:4:5:6:7", "1:2:3:4:5:6:7::", "::2:3:4:5:6:7:8", "1:2:3:4::5:6:7:8", "1:2:3:4:5:6:7:8:9", "1:2:3:4:5:6:7",
	"1::2::3", ":::", ":1", "1:", "12345::", "g::", "::1.2.3.4", "64:ff9b::1.2.3.4", "1:2:3:4:5:6:1.2.3.4", "1:2:3:4:5:6:7:1.2.3.4", "1.2.3.4::", "::1.2.3",
	"::ffff:1.2.3.4", "::ffff:0102:0304", "fe80::1%eth0", "FE80::ABCD", "2001:db8:0:0:1:0:0:1", "1:0:0:2:0:0:0:3", "0:0:1::", "1:0:2:3:4:5:6:7", "::+1",
}

func checkAddr(t *testing.T, text string) {
	t.Helper()
	want, err := netip.ParseAddr(text)
	valid := err == nil && want.Zone() == "" && !want.Is4In6()
	got := ParseAddr(text)
	if (got != "") != valid {
		t.Errorf("%q: %q, want %t", text, string(got), valid)
		return
	}
	if !valid {
		return
	}
	if got.String() != want.String() || got.Is6() != want.Is6() || got.IsUnspecified() != want.IsUnspecified() || got.IsLoopback() != want.IsLoopback() ||
		got.IsMulticast() != (want.IsMulticast() || want == netip.AddrFrom4([4]byte{255, 255, 255, 255})) ||
		got.isLinkLocal() != (want.Is6() && want.IsLinkLocalUnicast()) || string(got) != string(want.AsSlice()) {
		t.Errorf("%q is %v, want %v", text, got, want)
	}
	if again := AddrOf([]byte(got)); again != got {
		t.Errorf("%v becomes %v", got, again)
	}
}

func checkPrefix(t *testing.T, text string) {
	t.Helper()
	want, err := netip.ParsePrefix(text)
	if err != nil || want.Addr().Is4In6() {
		return
	}
	got := ParsePrefix(text)
	if got.String() != want.String() || got.Masked().String() != want.Masked().String() {
		t.Errorf("%q is %v (%v), want %v (%v)", text, got, got.Masked(), want, want.Masked())
	}
}

func TestAddressesAreThoseOfNetip(t *testing.T) {
	for _, text := range addresses {
		checkAddr(t, text)
	}
}

func TestPrefixesAreThoseOfNetip(t *testing.T) {
	for _, address := range []string{"10.255.3.129", "0.0.0.0", "fd00:ffff:ffff:ffff:ffff::1"} {
		for _, bits := range []string{"0", "1", "8", "12", "24", "31", "32", "48", "63", "64", "127", "128"} {
			checkPrefix(t, address+"/"+bits)
		}
	}
	for _, text := range []string{"", "/", "10.0.0.0/", "10.0.0.0/33", "10.0.0.0/-1", "10.0.0.0/+8", "10.0.0.0/08", "10.0.0.0/255.0.0.0", "fd00::/129", "fd00::/64/64", "::ffff:10.0.0.0/104", "10.0.0.0/1000000000000"} {
		if p := ParsePrefix(text); p != (Prefix{}) {
			t.Errorf("%q is %v", text, p)
		}
	}
	if p := ParsePrefix("10.0.0.1"); p.String() != "10.0.0.1/32" {
		t.Errorf("an address is %v", p)
	}
}

func FuzzAddr(f *testing.F) {
	for _, text := range addresses {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		checkAddr(t, text)
		checkPrefix(t, text)
	})
}

func TestParseMAC(t *testing.T) {
	for text, want := range map[string]string{
		"02:00:5e:10:00:01":       "02:00:5e:10:00:01",
		"02:00:5E:aB:00:0F":       "02:00:5e:ab:00:0f",
		"02-00-5e-10-00-01":       "02:00:5e:10:00:01",
		"02:00:5e:10:00:01:02:03": "02:00:5e:10:00:01:02:03",
		"00:00:00:00:fe:80:00:00:00:00:00:00:02:00:5e:10:00:00:00:01": "00:00:00:00:fe:80:00:00:00:00:00:00:02:00:5e:10:00:00:00:01",
	} {
		if got := ParseMAC(text); got.String() != want {
			t.Errorf("%q is %q", text, got)
		}
	}
	for _, text := range []string{
		"", ":", "02", "02:", "02:00:5e:10:00", "02:00:5e:10:00:01:", ":02:00:5e:10:00:01", "02:00:5e:10:00:1", "02:00:5e:10:00:001", "02:00:5e:10:00:0g",
		"02:00-5e:10:00:01", "02.00.5e.10.00.01", "02005e100001", "0200.5e10.0001", "02:00:5e:10:00:01:02", "02:00:5e:10:00:01 ",
		"00:00:00:00:fe:80:00:00:00:00:00:00:02:00:5e:10:00:00:00:01:02",
	} {
		if got := ParseMAC(text); got != "" {
			t.Errorf("%q is %q", text, got)
		}
	}
}

func TestCheckName(t *testing.T) {
	for _, name := range []string{"eth0", "a", "abcdefghijklmno", "eth0.100", "net-1_2", "é", "@"} {
		if reason := checkName(name); reason != "" {
			t.Errorf("%q %s", name, reason)
		}
	}
	for _, name := range []string{"abcdefghijklmnop", ".", "..", "lo", "all", "default", "a/b", "a:b", "a b", "a\tb", "a\x00b", "a\x7f", "eth%d"} {
		if checkName(name) == "" {
			t.Errorf("%q is a name", name)
		}
	}
}
