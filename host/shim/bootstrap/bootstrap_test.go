package bootstrap

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"kata/host/unixsocket"
	"kata/test/leaktest"
)

func TestMain(m *testing.M) { os.Exit(leaktest.Run(m, "kata/host/shim/bootstrap.")) }

func TestParse(t *testing.T) {
	env := map[string]string{"TTRPC_ADDRESS": "/run/c.ttrpc", "GRPC_ADDRESS": "/run/c.sock", "NAMESPACE": "fromenv"}
	for name, c := range map[string]struct {
		args string
		want Invocation
		fail string
	}{
		"containerd 1.6": {"-namespace k8s.io -address /c.sock -publish-binary /usr/bin/containerd -id c1 -debug start",
			Invocation{Action: "start", Namespace: "k8s.io", ID: "c1", Address: "/c.sock", TTRPCAddress: "/run/c.ttrpc", PublishBinary: "/usr/bin/containerd", Debug: true}, ""},
		"delete": {"-namespace k8s.io -address /c.sock -publish-binary x -id c1 -bundle /b delete",
			Invocation{Action: "delete", Namespace: "k8s.io", ID: "c1", Address: "/c.sock", TTRPCAddress: "/run/c.ttrpc", PublishBinary: "x", Bundle: "/b"}, ""},
		"what is only in the environment": {"-id c1 start",
			Invocation{Action: "start", Namespace: "fromenv", ID: "c1", Address: "/run/c.sock", TTRPCAddress: "/run/c.ttrpc"}, ""},
		"the server": {"-id c1 -config /c.toml -socket /s",
			Invocation{Namespace: "fromenv", ID: "c1", Address: "/run/c.sock", TTRPCAddress: "/run/c.ttrpc", Config: "/c.toml", Socket: "/s"}, ""},
		"no id":             {"start", Invocation{}, "-id"},
		"an id with a path": {"-id a/b start", Invocation{}, `"a/b"`},
		"a wrong action":    {"-id c1 restart", Invocation{}, `"restart"`},
		"two actions":       {"-id c1 start start", Invocation{}, "more than one"},
		"a wrong flag":      {"-idd c1 start", Invocation{}, "idd"},
		"help":              {"-h", Invocation{}, "usage"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := Parse(strings.Fields(c.args), func(k string) string { return env[k] })
			if c.fail != "" {
				if err == nil || !strings.Contains(err.Error(), c.fail) {
					t.Errorf("Parse: %v, want %q", err, c.fail)
				}
				return
			}
			if err != nil || got != c.want {
				t.Errorf("Parse = %+v, %v, want %+v", got, err, c.want)
			}
		})
	}
}

func TestSocketDir(t *testing.T) {
	inv := Invocation{Namespace: "ns", ID: "c1", Address: "/c.sock"}
	long := "/" + strings.Repeat("x", 60)
	for name, c := range map[string]struct{ named, bundle, want string }{
		"one that containerd names":              {"/run/named", "/st/io.containerd.runtime.v2.task/ns/c1", "/run/named"},
		"one named that is too long":             {long, "/st/io.containerd.runtime.v2.task/ns/c1", "/st/s"},
		"beside the bundles":                     {"", "/st/io.containerd.runtime.v2.task/ns/c1", "/st/s"},
		"a state folder with too long a name":    {"", long + "/io.containerd.runtime.v2.task/ns/c1", defaultSocketDir},
		"a bundle that is not one of containerd": {"", "/var/lib/containers/c1/userdata", defaultSocketDir},
		"a bundle of another namespace":          {"", "/st/io.containerd.runtime.v2.task/other/c1", defaultSocketDir},
	} {
		got := socketDir(c.named, c.bundle, inv)
		if got != c.want || len(socketPath(got, inv, inv.ID)) > unixsocket.MaxPath {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
	}
}

func TestSocketsOfDifferentContainersDiffer(t *testing.T) {
	seen := make(map[string]bool)
	for _, inv := range []Invocation{
		{Namespace: "a", Address: "/c"}, {Namespace: "b", Address: "/c"}, {Namespace: "a", Address: "/d"},
	} {
		for _, id := range []string{"1", "2"} {
			seen[socketPath("/s", inv, id)] = true
		}
	}
	if len(seen) != 6 {
		t.Errorf("%d sockets for 6 containers", len(seen))
	}
}

func TestListenTakesOverOnlyFromTheDead(t *testing.T) {
	path := filepath.Join(t.TempDir(), "dir", "s")
	f, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(path); !errors.Is(err, errdefs.ErrAlreadyExists) || !strings.Contains(err.Error(), path) {
		t.Errorf("listen beside a live one: %v", err)
	}
	_ = f.Close() // dies and leaves its socket
	f, err = Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	_ = conn.Close()
	_ = f.Close()
	if _, err := Listen("/" + strings.Repeat("x", 200)); err == nil || !strings.Contains(err.Error(), "longer") {
		t.Errorf("too long a path: %v", err)
	}
}

func TestSweepRemovesOnlyOurDead(t *testing.T) {
	dir, err := os.MkdirTemp("/tmp", "ks") // short, for the addresses
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	inv := Invocation{Namespace: "ns", Address: "/c"}
	live, err := Listen(socketPath(dir, inv, "live"))
	if err != nil {
		t.Fatal(err)
	}
	defer live.Close()
	quiet, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(quiet)
	if err := unix.Bind(quiet, &unix.SockaddrUnix{Name: socketPath(dir, inv, "bound, and does not listen yet")}); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{socketPath(dir, inv, "dead"), filepath.Join(dir, "another's")} {
		l, err := Listen(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		if err := Sweep(dir); err != nil {
			t.Fatal(err)
		}
	}
	for path, want := range map[string]bool{
		socketPath(dir, inv, "live"): true, socketPath(dir, inv, "bound, and does not listen yet"): true,
		filepath.Join(dir, "another's"): true, socketPath(dir, inv, "dead"): false,
	} {
		if _, err := os.Lstat(path); (err == nil) != want {
			t.Errorf("%s: %v", path, err)
		}
	}
	if err := Sweep(filepath.Join(dir, "nothing")); err != nil {
		t.Error(err)
	}
}

func FuzzReadParams(f *testing.F) {
	f.Add([]byte(nil))
	f.Add([]byte("\x0a\x02c1\x12\x02ns"))
	f.Add([]byte("\x0a\x19runtimeoptions.v1.Options\x12\x03\x12\x01/"))
	inv := Invocation{Namespace: "ns", ID: "c1"}
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := readParams(strings.NewReader(string(data)), inv)
		if err == nil && p.options.ConfigPath != "" && p.options.ConfigPath[0] != '/' {
			t.Errorf("a relative path came through: %q", p.options.ConfigPath)
		}
		if _, err := p.answer("unix:///x"); err != nil {
			t.Error(err)
		}
	})
}
