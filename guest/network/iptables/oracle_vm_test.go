//go:build vmtest

package iptables

import (
	"bytes"
	"errors"
	"net"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// The oracle is iptables-legacy of the distribution (testdata/host-files).

// isolate gives the test a network namespace of its own. Its thread ends with
// the test, because it is never unlocked.
func isolate(t *testing.T) {
	t.Helper()
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Fatal(err)
	}
}

// tool runs a command of iptables-legacy.
func tool(f Family, input, command string, args ...string) (string, error) {
	name := "iptables"
	if f == IPv6 {
		name = "ip6tables"
	}
	cmd := exec.Command("xtables-legacy-multi", append([]string{name + command}, args...)...)
	cmd.Stdin = strings.NewReader(input)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return "", errors.New(err.Error() + ": " + stderr.String())
	}
	return stdout.String(), nil
}

// toolSaves returns what iptables-save prints, without its comments.
func toolSaves(t *testing.T, f Family, args ...string) string {
	t.Helper()
	out, err := tool(f, "", "-save", args...)
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for line := range strings.Lines(out) {
		if line[0] != '#' {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines, "")
}

func toolRestores(t *testing.T, f Family, text string) {
	t.Helper()
	if _, err := tool(f, text, "-restore"); err != nil {
		t.Fatal(err)
	}
}

func save(t *testing.T, f Family) string {
	t.Helper()
	text, err := Save(f)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// same says whether two saved texts are; their tables are in the order in which
// they came into use.
func same(t *testing.T, what, want, got string) {
	t.Helper()
	sorted := func(text string) string {
		all := strings.SplitAfter(text, "COMMIT\n")
		slices.Sort(all)
		return strings.Join(all, "")
	}
	if diff := cmp.Diff(sorted(want), sorted(got)); diff != "" {
		t.Errorf("%s:\n%s", what, diff)
	}
}

// input returns rules in all the spellings that people use.
func input(t *testing.T, f Family) string {
	t.Helper()
	text, err := os.ReadFile(map[Family]string{IPv4: "testdata/input4.txt", IPv6: "testdata/input6.txt"}[f])
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func name(f Family) string { return map[Family]string{IPv4: "IPv4", IPv6: "IPv6"}[f] }

func TestSaveIsWhatTheToolSaves(t *testing.T) {
	for _, f := range []Family{IPv4, IPv6} {
		t.Run(name(f), func(t *testing.T) {
			isolate(t)
			if text := save(t, f); text != "" {
				t.Errorf("nobody has used a table, but %s", text)
			}
			toolRestores(t, f, input(t, f))
			want := toolSaves(t, f)
			// In the same order of tables, too.
			if diff := cmp.Diff(want, save(t, f)); diff != "" {
				t.Error(diff)
			}
			same(t, "what is in testdata", want, saved(t, f))
		})
	}
}

func TestRestoreIsWhatTheToolRestores(t *testing.T) {
	for _, f := range []Family{IPv4, IPv6} {
		for _, tt := range []struct{ name, text string }{{"as people write", input(t, f)}, {"as the tool prints", saved(t, f)}} {
			t.Run(name(f)+", "+tt.name, func(t *testing.T) {
				isolate(t)
				toolRestores(t, f, tt.text)
				want := toolSaves(t, f, "-c")
				isolate(t)
				if err := Restore(f, []byte(tt.text)); err != nil {
					t.Fatal(err)
				}
				same(t, "the tool sees", want, toolSaves(t, f, "-c"))
				if err := Restore(f, []byte(save(t, f))); err != nil {
					t.Fatal(err)
				}
				same(t, "and after what we print", want, toolSaves(t, f, "-c"))
			})
		}
	}
}

func TestTablesThatAreNotNamedStay(t *testing.T) {
	isolate(t)
	text := "*filter\n:INPUT DROP [0:0]\n:x - [0:0]\n-A INPUT -j x\nCOMMIT\n*nat\n-A OUTPUT -j ACCEPT\nCOMMIT\n"
	if err := Restore(IPv4, []byte(text)); err != nil {
		t.Fatal(err)
	}
	if err := Restore(IPv4, []byte("*nat\n:PREROUTING ACCEPT [0:0]\nCOMMIT\n")); err != nil {
		t.Fatal(err)
	}
	want := "*filter\n:INPUT DROP [0:0]\n:FORWARD ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n:x - [0:0]\n-A INPUT -j x\nCOMMIT\n" +
		"*nat\n:PREROUTING ACCEPT [0:0]\n:INPUT ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n:POSTROUTING ACCEPT [0:0]\nCOMMIT\n"
	same(t, "after nat was replaced", want, toolSaves(t, IPv4))
	// A policy that is not stated stays as well.
	if err := Restore(IPv4, []byte("*filter\nCOMMIT\n")); err != nil {
		t.Fatal(err)
	}
	same(t, "after filter was emptied", strings.ReplaceAll(strings.ReplaceAll(want, ":x - [0:0]\n", ""), "-A INPUT -j x\n", ""), toolSaves(t, IPv4))
}

// count sends datagrams, which OUTPUT has counted when it returns; nobody
// answers them.
func count(t *testing.T, n int) {
	t.Helper()
	if err := setLoopbackUp(); err != nil {
		t.Fatal(err)
	}
	c, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for range n {
		_, _ = c.WriteTo([]byte("x"), c.LocalAddr()) // rules may refuse it
	}
}

func setLoopbackUp() error {
	ifreq, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	ifreq.SetUint16(unix.IFF_UP)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, ifreq)
}

// outputPolicy returns the line of the chain OUTPUT.
func outputPolicy(text string) string {
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, ":OUTPUT") {
			return line
		}
	}
	return ""
}

func TestCounters(t *testing.T) {
	isolate(t)
	if err := Restore(IPv4, []byte("*filter\n:OUTPUT ACCEPT [7:8]\n-A FORWARD -c 3 4 -j ACCEPT\nCOMMIT\n")); err != nil {
		t.Fatal(err)
	}
	text := toolSaves(t, IPv4, "-c")
	if !strings.Contains(text, "[3:4] -A FORWARD -j ACCEPT\n") || !strings.Contains(text, ":OUTPUT ACCEPT [0:0]\n") {
		t.Errorf("only -c sets counters:\n%s", text)
	}
	count(t, 5)
	counted := outputPolicy(save(t, IPv4))
	if counted == ":OUTPUT ACCEPT [0:0]\n" || counted != outputPolicy(toolSaves(t, IPv4)) {
		t.Fatalf("after 5 datagrams %s", counted)
	}
	if err := Restore(IPv4, []byte("*filter\n:INPUT ACCEPT [0:0]\n-A INPUT -j DROP\nCOMMIT\n")); err != nil {
		t.Fatal(err)
	}
	if got := outputPolicy(save(t, IPv4)); got != counted {
		t.Errorf("a chain that is not named had %s and has %s", counted, got)
	}
	if err := Restore(IPv4, []byte("*filter\n:OUTPUT ACCEPT [0:0]\nCOMMIT\n")); err != nil {
		t.Fatal(err)
	}
	if got := outputPolicy(save(t, IPv4)); got != ":OUTPUT ACCEPT [0:0]\n" {
		t.Errorf("a chain that is named begins with %s", got)
	}
}

func TestWhatIsRefusedChangesNothing(t *testing.T) {
	// A structure of a size that the kernel does not take.
	const odd = "-A INPUT -j MARK --kata-raw 2:00000000000000000000000000000000\n"
	for _, tt := range []struct{ name, text, want string }{
		{"a mistake in the second table", "*nat\nCOMMIT\n*filter\n-A INPUT -j nope\nCOMMIT\n", `line 4: -j "nope": there is no such chain or target`},
		{"a match that the kernel does not have", "*filter\nCOMMIT\n*nat\n-A OUTPUT -m frobnicate --kata-raw 0:\nCOMMIT\n", `line 4: -m "frobnicate": this kernel does not have it`},
		{"a revision that the kernel does not have", "*filter\n-A INPUT -m mark --kata-raw 99:\nCOMMIT\n", `line 2: -m "mark": this kernel does not have it`},
		{"a table that the kernel refuses", "*nat\nCOMMIT\n*filter\n" + odd + "COMMIT\n", "the kernel refuses the table filter: IPT_SO_SET_REPLACE: invalid argument"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			isolate(t)
			toolRestores(t, IPv4, saved(t, IPv4))
			// What is sent gets no further, so nothing is counted later.
			if _, err := tool(IPv4, "", "", "-I", "OUTPUT", "-j", "DROP"); err != nil {
				t.Fatal(err)
			}
			count(t, 3)
			want := toolSaves(t, IPv4, "-c")
			if _, nat, _ := strings.Cut(want, "*nat\n"); !strings.Contains(nat, ":OUTPUT ACCEPT [3:87]\n") {
				t.Fatalf("nothing to lose in\n%s", want)
			}
			err := Restore(IPv4, []byte(tt.text))
			if err == nil || err.Error() != tt.want {
				t.Errorf("got %v, want %s", err, tt.want)
			}
			same(t, "afterwards", want, toolSaves(t, IPv4, "-c"))
		})
	}
}

func TestMistakesOfTheTestAreTheTools(t *testing.T) {
	// What is refused here, the tool refuses too; so the rest of the list in
	// TestMistakesAreNamed is what the tool would not take.
	for _, rule := range []string{
		"-A INPUT -m tcp --dport 80", "-A INPUT ! -p tcp -m tcp --dport 80", "-A INPUT -m owner --uid-owner 0", "-A INPUT -j MASQUERADE",
		"-A INPUT -j REJECT --reject-with tcp-reset", "-A FORWARD -p tcp -j TCPMSS --set-mss 1", "-A INPUT -m conntrack",
		"-A INPUT -p tcp -m multiport", "-A INPUT -m mark", "-A INPUT -j nope", "-A INPUT -m comment", "-A FORWARD -j MARK",
		"-A INPUT -m limit --limit 20000/s", "-A INPUT -p tcp --dport 5:4", "-A INPUT ! -p all",
	} {
		isolate(t)
		if _, err := tool(IPv4, filter(rule), "-restore"); err == nil {
			t.Errorf("%s: the tool takes it", rule)
		}
		if err := Restore(IPv4, []byte(filter(rule))); err == nil {
			t.Errorf("%s: we take it", rule)
		}
	}
}

func TestStaleReplacementIsToBeRepeated(t *testing.T) {
	isolate(t)
	s, err := openSocket(IPv4)
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	old, err := s.read("filter")
	if err != nil {
		t.Fatal(err)
	}
	toolRestores(t, IPv4, "*filter\n-A INPUT -j ACCEPT\nCOMMIT\n")
	if _, err := s.replace(old, old.number); !errors.Is(err, unix.EAGAIN) {
		t.Errorf("replacing what somebody else has replaced: %v", err)
	}
}

func TestMatchesOfOthersAreNotLost(t *testing.T) {
	isolate(t)
	for _, rule := range []string{
		"-A INPUT -m recent --set --name x", "-A INPUT -m cgroup --cgroup 5", "-A INPUT -m bpf --bytecode '1,6 0 0 0'",
	} {
		rule = strings.ReplaceAll(rule, "'", `"`)
		toolRestores(t, IPv4, filter(rule))
		want, text := toolSaves(t, IPv4), save(t, IPv4)
		if !strings.Contains(text, rawOption) {
			t.Errorf("%s is printed as\n%s", rule, text)
		}
		if _, err := tool(IPv4, text, "-restore"); err == nil {
			t.Errorf("%s: the tool takes\n%s", rule, text)
		}
		toolRestores(t, IPv4, "*filter\nCOMMIT\n")
		if err := Restore(IPv4, []byte(text)); err != nil {
			t.Error(err)
		}
		same(t, rule, want, toolSaves(t, IPv4))
	}
}
