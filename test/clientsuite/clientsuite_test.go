//go:build clients

package clientsuite

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"kata/test/containerd2"
	"kata/test/harness"
	"kata/test/pace"
)

var (
	runtimeName = flag.String("runtime", "io.containerd.kata.v2", "the runtime under test")
	logName     = flag.String("log", "", "file for the suite's and its daemon's output")
	only        = flag.String("only", "", "pattern of the suite's tests to run, instead of those of testdata/passes.txt")
)

// isolate runs the rest of the command line with mounts of its own: the suite's
// daemon uses fixed folders, and a hierarchy of cgroups is in the way of tools that
// know one kind.
const isolate = `set -e
mount --make-rprivate /
umount /sys/fs/cgroup/unified 2>/dev/null || true
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/lock /run/containerd /var/lib/containerd-test
mount -t tmpfs -o mode=755 tmpfs /var/lib/containerd-test
mount --make-rshared /
exec "$@"`

// TestClientsOfContainerd runs the suite's tests that pass with runc and must pass
// with ours: testdata/passes.txt. What differs, and why, is in docs/design/shim.md.
func TestClientsOfContainerd(t *testing.T) {
	names := expected(t)
	pattern := *only
	if pattern == "" {
		pattern = "^(" + strings.Join(names, "|") + ")$"
	}
	results := run(t, pattern)
	for _, name := range names {
		if results[name] != "PASS" && (*only == "" || regexp.MustCompile(*only).MatchString(name)) {
			t.Errorf("%s: %s", name, cmpOr(results[name], "did not run"))
		}
	}
	for name, result := range results {
		if result == "PASS" && !slices.Contains(names, name) {
			t.Logf("%s passes, and is not in testdata/passes.txt", name)
		}
	}
}

func cmpOr(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}

func expected(t *testing.T) []string {
	t.Helper()
	b, err := os.ReadFile("testdata/passes.txt")
	if err != nil {
		t.Fatal(err)
	}
	return slices.DeleteFunc(strings.Fields(string(b)), func(s string) bool { return strings.HasPrefix(s, "#") })
}

// run returns the results of the suite's tests by name.
func run(t *testing.T, pattern string) map[string]string {
	t.Helper()
	ctx := t.Context()
	suite, err := Build(ctx, os.Stderr)
	if err != nil {
		t.Fatal(err)
	}
	programs, err := containerd2.Build(ctx, os.Stderr)
	if err != nil {
		t.Fatal(err)
	}
	repo, err := harness.Repository()
	if err != nil {
		t.Fatal(err)
	}
	stop, err := serveRegistry()
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := stop(); err != nil {
			t.Error(err)
		}
	}()
	defer removeCgroups(t)
	dir := t.TempDir()
	config := filepath.Join(dir, "configuration.toml")
	if err := os.WriteFile(config, []byte(repo.KataConfig(nil)), 0o600); err != nil {
		t.Fatal(err)
	}
	limit := pace.Of(30 * time.Minute)
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, "sh", "-c", isolate, "sh",
		suite, "-test.v", "-test.run", pattern, "-test.root", "-no-criu", "-test.timeout", limit.String())
	cmd.Dir = dir
	cmd.Env = append(os.Environ(),
		"PATH="+strings.Join([]string{repo.Bin(), programs.ShimDir, os.Getenv("PATH")}, ":"),
		"KATA_CONF_FILE="+config, "TEST_RUNTIME="+*runtimeName, "TMPDIR="+dir)
	// The last of its processes to go may be a shim that the suite has forgotten.
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	cmd.WaitDelay = time.Minute
	if *logName == "" {
		*logName = filepath.Join(dir, "log")
	}
	log, err := os.Create(*logName)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	err = cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return results(t, log.Name())
}

// removeCgroups removes the groups that the suite leaves behind, one a hierarchy, as
// far as nobody is in them.
func removeCgroups(t *testing.T) {
	groups, err := filepath.Glob("/sys/fs/cgroup/*/testing")
	if err != nil {
		t.Error(err)
	}
	for _, g := range append(groups, "/sys/fs/cgroup/testing") {
		_ = syscall.Rmdir(g)
	}
}

var result = regexp.MustCompile(`^--- (PASS|FAIL|SKIP): (\S+)`)

func results(t *testing.T, log string) map[string]string {
	t.Helper()
	f, err := os.Open(log)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	all := make(map[string]string)
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		if m := result.FindStringSubmatch(lines.Text()); m != nil {
			all[m[2]] = m[1]
			t.Log(m[0])
		}
	}
	if err := lines.Err(); err != nil {
		t.Error(err)
	}
	return all
}
