package kernel

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"kata/image/cache"
	"kata/test/pace"
)

// miniature is a "kernel" with the targets that the builder uses.
const miniature = `
SLOW_PIDS = /dev/null
allnoconfig:
	grep -v DROP $(KCONFIG_ALLCONFIG) > .config
bzImage:
	@echo "  CC      init/main.o"
	@test ! -e broken || { echo "init/main.c:1: error: no such thing"; exit 1; }
	@if test -e slow && ! test -e stopped; then touch stopped; echo $$$$ > $(SLOW_PIDS); sleep 1000 & echo $$! >> $(SLOW_PIDS); echo "  CC      init/slow.o"; wait; fi
	@mkdir -p arch/x86/boot
	@cp /bin/true vmlinux
	@echo "$$KBUILD_BUILD_USER $$KBUILD_BUILD_TIMESTAMP" > arch/x86/boot/bzImage
`

// source makes a source tarball of the miniature and more (empty) files.
func source(t *testing.T, makefile string, files ...string) string {
	t.Helper()
	dir := t.TempDir()
	top := filepath.Join(dir, "linux-source-0.1")
	if err := os.Mkdir(top, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(top, "Makefile"), []byte(makefile), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if err := os.WriteFile(filepath.Join(top, f), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	tarball := filepath.Join(dir, "linux-source-0.1.tar.xz")
	if out, err := exec.Command("tar", "-cJf", tarball, "-C", dir, "linux-source-0.1").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return tarball
}

func store(t *testing.T) *cache.Store {
	t.Helper()
	s, err := cache.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

var fragment = []byte("CONFIG_A=y\n# CONFIG_B is not set\n")

func TestBuildAndReuse(t *testing.T) {
	s, o := store(t), Options{Source: source(t, miniature), Fragment: fragment}
	var log bytes.Buffer
	o.Log = &log
	e, cached, err := Build(t.Context(), s, o)
	if err != nil {
		t.Fatal(err)
	}
	if cached {
		t.Error("cached at once")
	}
	image, err := os.ReadFile(e.Path(BzImage))
	if err != nil || string(image) != "kata Thu Jan  1 00:00:00 UTC 1970\n" {
		t.Errorf("bzImage %q, %v", image, err)
	}
	if config, err := os.ReadFile(e.Path(DotConf)); err != nil || string(config) != string(fragment) {
		t.Errorf("config %q, %v", config, err)
	}
	for _, want := range []string{"unpacking the kernel source: done in", "compiling the kernel: done in"} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("log lacks %q:\n%s", want, &log)
		}
	}
	again, cached, err := Build(t.Context(), s, o)
	if err != nil || !cached || again.Key != e.Key {
		t.Errorf("second build: %v, %v", cached, err)
	}
	o.Fragment = []byte("CONFIG_A=y\n")
	other, cached, err := Build(t.Context(), s, o)
	if err != nil || cached || other.Key == e.Key {
		t.Errorf("build of another fragment: %v, %v", cached, err)
	}
	left, err := filepath.Glob(filepath.Join(s.Dir(), "kernel", ".*.[nw]*"))
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestBuildErrors(t *testing.T) {
	notXZ := filepath.Join(t.TempDir(), "source.tar.xz")
	if err := os.WriteFile(notXZ, []byte("garbage"), 0o644); err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		o    Options
		want string
	}{
		"no source": {
			Options{Source: "/no/linux.tar.xz"},
			"kernel source /no/linux.tar.xz is not there (Debian: apt-get install linux-source-6.1)",
		},
		"a source that is no archive": {Options{Source: notXZ, Fragment: fragment}, "extract " + notXZ},
		"an option without effect": {
			Options{Source: source(t, miniature), Fragment: []byte("CONFIG_A=y\nCONFIG_DROP=y\n")},
			"1 options of the kernel config fragment did not take effect: line 2: CONFIG_DROP=y is unknown to this kernel or lacks a dependency",
		},
		"a compiler's error": {
			Options{Source: source(t, miniature, "broken"), Fragment: fragment},
			"init/main.c:1: error: no such thing",
		},
		"a broken fragment": {Options{Fragment: []byte("nonsense")}, "line 1"},
	} {
		t.Run(name, func(t *testing.T) {
			s := store(t)
			_, _, err := Build(t.Context(), s, tt.o)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %s", err, tt.want)
			}
			if list, err := s.List(); err != nil || len(list) > 0 {
				t.Errorf("entries %v, %v", list, err)
			}
		})
	}
}

func TestMissingToolsAreNamed(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	_, _, err := Build(t.Context(), store(t), Options{Source: source2(t), Fragment: fragment})
	if err == nil || !strings.Contains(err.Error(), "building the kernel needs make, gcc, ld, strip, flex, bison, bc, perl, tar, xz, lz4, cpio") ||
		!strings.Contains(err.Error(), "(Debian: apt-get install make gcc binutils flex bison bc") {
		t.Errorf("got %v", err)
	}
}

func source2(t *testing.T) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "s.tar.xz")
	if err := os.WriteFile(name, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	return name
}

func TestConfigOnlyCachesNothing(t *testing.T) {
	s := store(t)
	var log bytes.Buffer
	_, _, err := Build(t.Context(), s, Options{Source: source(t, miniature), Fragment: fragment, ConfigOnly: true, Log: &log})
	if err != nil || !strings.Contains(log.String(), "all 2 options of the fragment take effect") {
		t.Errorf("%v\n%s", err, &log)
	}
	if left, err := os.ReadDir(s.Dir()); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// An interrupted build leaves no process, and the next one goes on.
func TestInterruption(t *testing.T) {
	pids := filepath.Join(t.TempDir(), "pids")
	makefile := strings.Replace(miniature, "/dev/null", pids, 1)
	s, o := store(t), Options{Source: source(t, makefile, "slow"), Fragment: fragment}
	r, w := io.Pipe()
	o.Log = w
	ctx, cancel := context.WithCancelCause(t.Context())
	stop := errors.New("stop")
	go func() {
		// The first step is shown when the compiler runs.
		lines := make([]byte, 4096)
		for {
			n, err := r.Read(lines)
			if err != nil {
				return
			}
			if strings.Contains(string(lines[:n]), "compiling the kernel: ") {
				waitForFile(t, pids, 2)
				cancel(stop)
			}
		}
	}()
	_, _, err := Build(ctx, s, o)
	w.Close()
	if !errors.Is(err, stop) {
		t.Fatalf("got %v", err)
	}
	text, err := os.ReadFile(pids)
	if err != nil {
		t.Fatal(err)
	}
	for _, field := range strings.Fields(string(text)) {
		pid, err := strconv.Atoi(field)
		if err != nil {
			t.Fatal(err)
		}
		// They have been killed, but nobody here is told when they have ended.
		for end := time.Now().Add(pace.Of(time.Minute)); unix.Kill(pid, 0) != unix.ESRCH && !isZombie(pid); time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("process %d is still there", pid)
			}
		}
	}
	var log bytes.Buffer
	o.Log = &log
	if _, cached, err := Build(t.Context(), s, o); err != nil || cached {
		t.Fatalf("second build: %v, %v", cached, err)
	}
	if !strings.Contains(log.String(), "going on with an interrupted build") {
		t.Errorf("log:\n%s", &log)
	}
}

// waitForFile returns when the file has the given number of lines.
func waitForFile(t *testing.T, name string, lines int) {
	t.Helper()
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC)
	if err != nil {
		t.Error(err)
		return
	}
	defer unix.Close(fd)
	if _, err := unix.InotifyAddWatch(fd, filepath.Dir(name), unix.IN_CLOSE_WRITE); err != nil {
		t.Error(err)
		return
	}
	for {
		text, err := os.ReadFile(name)
		if err == nil && bytes.Count(text, []byte("\n")) >= lines {
			return
		}
		var event [4096]byte
		if _, err := unix.Read(fd, event[:]); err != nil && err != unix.EINTR {
			t.Error(err)
			return
		}
	}
}

// isZombie: an orphan is dead although init has not collected it yet.
func isZombie(pid int) bool {
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return true
	}
	_, rest, _ := strings.Cut(string(stat), ") ")
	return strings.HasPrefix(rest, "Z") || strings.HasPrefix(rest, "X")
}
