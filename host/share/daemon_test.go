package share

import (
	"context"
	"errors"
	"flag"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"kata/host/process"
)

var update = flag.Bool("update", false, "rewrite golden files")

func TestDaemonArguments(t *testing.T) {
	plain := DaemonConfig{SharedDir: "/run/kata/pod/shared", Cache: "auto"}
	with := func(change func(*DaemonConfig)) DaemonConfig {
		cfg := plain
		change(&cfg)
		return cfg
	}
	tests := map[string]DaemonConfig{
		"plain":    plain,
		"never":    with(func(c *DaemonConfig) { c.Cache = "never" }),
		"none":     with(func(c *DaemonConfig) { c.Cache = "none" }),
		"always":   with(func(c *DaemonConfig) { c.Cache = "always" }),
		"metadata": with(func(c *DaemonConfig) { c.Cache = "metadata" }),
		"chroot":   with(func(c *DaemonConfig) { c.Sandbox = "chroot" }),
		"debug":    with(func(c *DaemonConfig) { c.Debug = true }),
		"extra":    with(func(c *DaemonConfig) { c.ExtraArgs = []string{"--thread-pool-size=1", "-o", "flock"} }),
		"commas":   with(func(c *DaemonConfig) { c.SharedDir = `/run/a,b\c` }),
		"nonsense": with(func(c *DaemonConfig) { c.Cache = "sometimes" }),
		"no-cage":  with(func(c *DaemonConfig) { c.Sandbox = "none" }),
		"bad-cage": with(func(c *DaemonConfig) { c.Sandbox = "glass" }),
	}
	for name, cfg := range tests {
		t.Run(name, func(t *testing.T) {
			var out strings.Builder
			for _, kind := range []flavour{flavourC, flavourRust} {
				argv, err := daemonArgs(kind, cfg, 3)
				out.WriteString(kind.String() + "\n")
				if err != nil {
					out.WriteString("  error: " + err.Error() + "\n")
				}
				for _, arg := range argv {
					out.WriteString("  " + arg + "\n")
				}
			}
			golden(t, name, out.String())
		})
	}
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name+".golden")
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-want +got; -update rewrites it):\n%s", path, diff)
	}
}

func TestFlavour(t *testing.T) {
	for name, test := range map[string]struct {
		version string
		want    flavour
	}{
		"QEMU 7.2":      {"virtiofsd version 7.2.22 (Debian 1:7.2+dfsg-7)\nCopyright (c) 2003-2022 Fabrice Bellard\nusing FUSE kernel interface version 7.36\n", flavourC},
		"QEMU 5.0":      {"virtiofsd version 5.0.0\nusing FUSE kernel interface version 7.31\n", flavourC},
		"Rust 1.13":     {"virtiofsd 1.13.2\n", flavourRust},
		"Rust 1.2":      {"virtiofsd backend 1.2.0\n", flavourRust},
		"Rust 0.1":      {"error: Found argument '--version' which wasn't expected\n\nUSAGE:\n    virtiofsd --shared-dir <shared-dir> --socket <socket>\n", flavourRust},
		"another thing": {"true (GNU coreutils) 9.1\n", 0},
		"nothing":       {"", 0},
	} {
		t.Run(name, func(t *testing.T) {
			if got, ok := flavourOf(test.version); got != test.want || ok != (test.want != 0) {
				t.Errorf("flavourOf = %v, %v; want %v", got, ok, test.want)
			}
		})
	}
}

func within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func newSpawner(t *testing.T) *process.Spawner {
	t.Helper()
	s := process.NewSpawner()
	t.Cleanup(s.Close)
	return s
}

// fakeDaemon writes a program that says it is virtiofsd of a flavour and then
// runs a script.
func fakeDaemon(t *testing.T, script string) DaemonConfig {
	t.Helper()
	dir := t.TempDir()
	path := filepath.Join(dir, "virtiofsd")
	program := "#!/bin/sh\n[ \"$1\" = --version ] && echo virtiofsd 1.13.0 && exit\n" + script + "\n"
	if err := os.WriteFile(path, []byte(program), 0o700); err != nil {
		t.Fatal(err)
	}
	return DaemonConfig{
		Paths: []string{"/nowhere/virtiofsd", path}, Socket: filepath.Join(dir, "fs.sock"),
		SharedDir: dir, Cache: "auto", Log: slog.New(slog.DiscardHandler),
	}
}

func startDaemon(t *testing.T, cfg DaemonConfig) *Daemon {
	t.Helper()
	daemon, err := StartDaemon(within(t), cfg, newSpawner(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for range 2 { // idempotent
			if err := daemon.Stop(within(t)); err != nil {
				t.Errorf("Stop: %v", err)
			}
		}
		if _, err := os.Lstat(cfg.Socket); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("socket is left: %v", err)
		}
		if daemon.ID().Alive() {
			t.Error("virtiofsd is left")
		}
	})
	return daemon
}

func TestDaemonStartAndStop(t *testing.T) {
	cfg := fakeDaemon(t, "exec sleep 1000")
	daemon := startDaemon(t, cfg)
	info, err := os.Lstat(cfg.Socket)
	if err != nil || info.Mode() != fs.ModeSocket|0o600 {
		t.Errorf("socket: %v, %v", info, err)
	}
	if !daemon.ID().Alive() || daemon.Err() != nil {
		t.Errorf("alive %v, Err %v", daemon.ID().Alive(), daemon.Err())
	}
	if err := daemon.Stop(within(t)); err != nil {
		t.Fatal(err)
	}
	<-daemon.Done()
	if err := daemon.Err(); err != nil {
		t.Errorf("Err after Stop: %v", err)
	}
}

func TestDaemonDeathIsNoticedWithItsLastWords(t *testing.T) {
	for name, test := range map[string]struct{ script, want string }{
		"an error":    {"echo cannot share >&2; exit 3", "exit status 3: cannot share"},
		"a signal":    {"kill -SEGV $$", "segmentation fault"},
		"a clean end": {"exit 0", "closed its connection"},
	} {
		t.Run(name, func(t *testing.T) {
			daemon := startDaemon(t, fakeDaemon(t, test.script))
			select {
			case <-daemon.Done():
			case <-within(t).Done():
				t.Fatal("not noticed")
			}
			if err := daemon.Err(); err == nil || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("Err = %v, want one line with %q", err, test.want)
			}
		})
	}
}

func TestDaemonGetsItsListeningSocket(t *testing.T) {
	cfg := fakeDaemon(t, `[ -S /proc/self/fd/3 ] && [ ! -e /proc/self/fd/4 ] && exit 7; exit 1`)
	daemon := startDaemon(t, cfg)
	<-daemon.Done()
	if err := daemon.Err(); err == nil || !strings.Contains(err.Error(), "status 7") {
		t.Errorf("Err = %v", err)
	}
}

func TestStartDaemonErrorsNameWhatIsWrong(t *testing.T) {
	script := func(t *testing.T, text string) string {
		path := filepath.Join(t.TempDir(), "program")
		if err := os.WriteFile(path, []byte(text), 0o700); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for name, test := range map[string]struct {
		spoil func(*testing.T, *DaemonConfig)
		want  []string
	}{
		"none of the paths": {func(_ *testing.T, c *DaemonConfig) { c.Paths = []string{"/nowhere/a", "/nowhere/b"} },
			[]string{"/nowhere/a, /nowhere/b"}},
		"no paths":       {func(_ *testing.T, c *DaemonConfig) { c.Paths = nil }, []string{"find virtiofsd"}},
		"not executable": {func(_ *testing.T, c *DaemonConfig) { c.Paths = []string{"/etc/passwd"} }, []string{"/etc/passwd is not an executable"}},
		"another program": {func(t *testing.T, c *DaemonConfig) { c.Paths = []string{script(t, "#!/bin/sh\necho hello\n")} },
			[]string{"does not look like virtiofsd", "hello"}},
		"fails": {func(t *testing.T, c *DaemonConfig) {
			c.Paths = []string{script(t, "#!/bin/sh\necho no library; exit 127\n")}
		},
			[]string{"exit status 127", "no library"}},
		"cannot be run": {func(t *testing.T, c *DaemonConfig) { c.Paths = []string{script(t, "#!/nowhere/sh\n")} },
			[]string{"program", "no such file"}},
		"no directory": {func(_ *testing.T, c *DaemonConfig) { c.SharedDir = "/nowhere" }, []string{"shared directory", "/nowhere"}},
		"socket taken": {func(t *testing.T, c *DaemonConfig) {
			if err := os.WriteFile(c.Socket, nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}, []string{"fs.sock", "address already in use"}},
		"socket's name too long": {func(_ *testing.T, c *DaemonConfig) { c.Socket = "/tmp/" + strings.Repeat("x", 120) },
			[]string{"xxx", "at most 107"}},
		"cache": {func(_ *testing.T, c *DaemonConfig) { c.Cache = "sometimes" }, []string{`"sometimes"`}},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := fakeDaemon(t, "exec sleep 1000")
			test.spoil(t, &cfg)
			before, statErr := os.Lstat(cfg.Socket)
			daemon, err := StartDaemon(within(t), cfg, newSpawner(t))
			if err == nil {
				t.Fatal(errors.Join(errors.New("it starts"), daemon.Stop(within(t))))
			}
			if strings.Contains(err.Error(), "\n") {
				t.Errorf("error has more than one line: %q", err)
			}
			for _, text := range test.want {
				if !strings.Contains(err.Error(), text) {
					t.Errorf("error %q does not hold %q", err, text)
				}
			}
			if _, err := os.Lstat(cfg.Socket); (err == nil) != (statErr == nil) {
				t.Errorf("socket before %v, after: %v", before, err)
			}
		})
	}
}

func TestStartDaemonHonoursContext(t *testing.T) {
	cfg := fakeDaemon(t, "")
	if err := os.WriteFile(cfg.Paths[1], []byte("#!/bin/sh\nexec sleep 1000\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeoutCause(t.Context(), 100*time.Millisecond, errors.New("no patience"))
	defer cancel()
	if _, err := StartDaemon(ctx, cfg, newSpawner(t)); err == nil || !strings.Contains(err.Error(), "no patience") {
		t.Errorf("StartDaemon = %v", err)
	}
}
