//go:build e2e

package e2e

import (
	"context"
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"kata/test/harness"
	"kata/test/pace"
)

// node is the containerd that all tests share: starting one costs a second,
// and a daemon that many containers have passed through is the harder case.
// Set by TestMain, before any test.
var node *harness.Node

var (
	onlyRuntime = flag.String("runtime", "", "run the behaviour suite with this one only: runc or kata")
	testLimit   = flag.Duration("limit", 3*time.Minute, "how long one test may take")
)

const (
	busybox   = "local/busybox:latest"
	asUser    = "local/user:latest"
	withData  = "local/data:latest"
	leakLimit = 20 * time.Second
)

func TestMain(m *testing.M) {
	flag.Parse()
	code, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		os.Exit(1)
	}
	os.Exit(code)
}

func run(m *testing.M) (code int, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), pace.Of(*testLimit))
	defer cancel()
	repo, err := harness.Repository()
	if err != nil {
		return 0, err
	}
	node, err = harness.Start(ctx, harness.Options{ShimDirs: []string{repo.Bin()}, KataConfig: repo.KataConfig(nil)})
	if err != nil {
		return 0, err
	}
	defer func() {
		if closeErr := node.Close(); closeErr != nil && err == nil {
			err = closeErr
		}
	}()
	images, err := images()
	if err != nil {
		return 0, err
	}
	for _, image := range images {
		if err := node.Import(ctx, image); err != nil {
			return 0, err
		}
	}
	return m.Run(), nil
}

// data is the content of /data in the image withData: no period that a lost or
// repeated block could hide behind.
var data = func() []byte {
	b := make([]byte, 1<<20-3)
	x := uint32(2463534242)
	for i := range b { // xorshift32 (Marsaglia)
		x ^= x << 13
		x ^= x >> 17
		x ^= x << 5
		b[i] = byte(x)
	}
	return b
}()

func images() ([]harness.Image, error) {
	plain, err := harness.Busybox(busybox)
	if err != nil {
		return nil, err
	}
	user := plain
	user.Ref = asUser
	user.Config = harness.ImageConfig{
		User:       "tester",
		Env:        []string{"PATH=/bin", "GREETING=good morning"},
		Entrypoint: []string{"/bin/sh", "-c"},
		Cmd:        []string{`echo "$(id -u):$(id -g) $GREETING $PWD"`},
		WorkingDir: "/home/tester",
	}
	full := plain
	full.Ref = withData
	full.Files = append(append([]harness.File{}, plain.Files...), harness.File{Name: "data", Mode: 0o644, Data: data})
	return []harness.Image{plain, user, full}, nil
}

// test is one test's view of the node: a runtime, a deadline, and ids whose
// traces are looked for when the test ends.
type test struct {
	*testing.T
	runtime string
	ctx     context.Context
	attempt *attempt // nil when failures count
}

// begin gives the test its deadline and checks, when it ends, that nothing is
// left of it.
func begin(t *testing.T, runtime string) *test {
	t.Helper()
	ctx, cancel := context.WithTimeoutCause(t.Context(), pace.Of(*testLimit), fmt.Errorf("the test took longer than %v", *testLimit))
	t.Cleanup(cancel)
	before, err := node.Mark()
	if err != nil {
		t.Fatal(err)
	}
	logged := logSize(t)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), pace.Of(leakLimit))
		defer cancel()
		left, err := node.Leaks(ctx, before)
		if err != nil {
			t.Error(err)
		}
		for _, thing := range left {
			t.Errorf("left behind: %s", thing)
		}
		if t.Failed() {
			t.Logf("log of containerd and the shims during this test:\n%s", logSince(t, logged))
			if err := node.RemoveAll(context.WithoutCancel(ctx)); err != nil {
				t.Error(err)
			}
		}
	})
	return &test{T: t, runtime: runtime, ctx: ctx}
}

func logSize(t *testing.T) int64 {
	info, err := os.Stat(node.LogFile())
	if err != nil {
		t.Fatal(err)
	}
	return info.Size()
}

func logSince(t *testing.T, offset int64) string {
	b, err := os.ReadFile(node.LogFile())
	if err != nil {
		t.Error(err)
		return ""
	}
	const most = 64 << 10
	b = b[min(offset, int64(len(b))):]
	if len(b) > most {
		b = append([]byte("…"), b[len(b)-most:]...)
	}
	return string(b)
}

// container returns a busybox container of the test's runtime, with an id of
// its own, that runs args.
func (t *test) container(args ...string) harness.Container {
	name, _, _ := strings.Cut(strings.TrimPrefix(t.Name(), "Test"), "/")
	name = strings.ToLower(name)
	name = strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' {
			return r
		}
		return -1
	}, name)
	return harness.Container{
		ID:      node.NewID(name[:min(len(name), 12)]),
		Image:   busybox,
		Runtime: t.runtime,
		Args:    args,
	}
}

// sh is container with a shell script.
func (t *test) sh(script string) harness.Container { return t.container("/bin/sh", "-c", script) }

// succeed runs the container and wants exit status 0.
func (t *test) succeed(c harness.Container) harness.Result {
	t.Helper()
	r := node.Run(t.ctx, c)
	if r.Err != nil {
		t.Fatal(r.Failure())
	}
	return r
}

// detach starts the container in the background and removes it, in whatever
// state it is, when the test ends.
func (t *test) detach(c harness.Container) string {
	t.Helper()
	// The container may exist even when its task could not be made.
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), pace.Of(leakLimit))
		defer cancel()
		if err := node.Remove(ctx, c.ID); err != nil && !strings.Contains(err.Error(), "not found") {
			t.Error(err)
		}
	})
	if r := node.Detach(t.ctx, c); r.Err != nil {
		t.Fatal(r.Failure())
	}
	return c.ID
}

// fromSpec returns a container of the default spec with a change, and a busybox
// root file system in a directory.
func (t *test) fromSpec(change func(*specs.Spec)) harness.Container {
	t.Helper()
	c, err := node.FromSpec(t.ctx, t.TempDir(), t.container(), change)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// removeTask deletes the stopped task, and ctr must tell its exit status.
func (t *test) removeTask(id string, status int) {
	t.Helper()
	r := t.ctr("tasks", "rm", id)
	if want := fmt.Sprintf("exit code %d\"", status); !strings.Contains(r.Stderr, want) {
		t.Errorf("ctr says %q, want %s", r.Stderr, want)
	}
}

// exec runs a command in a running container and wants exit status 0.
func (t *test) exec(id, execID string, args ...string) harness.Result {
	t.Helper()
	r := node.Exec(t.ctx, id, execID, args...)
	if r.Err != nil {
		t.Fatal(r.Failure())
	}
	return r
}

// ctr runs ctr and wants it to succeed.
func (t *test) ctr(args ...string) harness.Result {
	t.Helper()
	r := node.Ctr(t.ctx, args...)
	if r.Err != nil {
		t.Fatal(r.Failure())
	}
	return r
}

// awaitOutput waits until the text has come out; carriage returns of a
// terminal are not counted.
func (t *test) awaitOutput(o *harness.Output, text string) {
	t.Helper()
	err := o.Await(t.ctx, text, func(s string) bool { return strings.Contains(strings.ReplaceAll(s, "\r", ""), text) })
	if err != nil {
		t.Fatal(err)
	}
}

// awaitStatus waits until the container's task has the state.
func (t *test) awaitStatus(id, want string) {
	t.Helper()
	var last string
	err := harness.Await(t.ctx, "status "+want, func() (bool, error) {
		var err error
		last, err = node.Status(t.ctx, id)
		return last == want, err
	})
	if err != nil {
		t.Fatalf("%v; the status is %q", err, last)
	}
}

// wantCode fails the test unless ctr ended with the status.
func (t *test) wantCode(r harness.Result, want int) {
	t.Helper()
	if r.Code != want {
		t.Errorf("exit status %d, want %d: %v", r.Code, want, r.Failure())
	}
}

// wantOutput fails the test unless the streams hold exactly this.
func (t *test) wantOutput(r harness.Result, stdout, stderr string) {
	t.Helper()
	if r.Stdout != stdout {
		t.Errorf("stdout %q, want %q", r.Stdout, stdout)
	}
	if r.Stderr != stderr {
		t.Errorf("stderr %q, want %q", r.Stderr, stderr)
	}
}

// both runs a test with runc, as the oracle, and with kata.
func both(t *testing.T, f func(t *test)) {
	t.Helper()
	for _, r := range []struct{ name, runtime string }{{"runc", harness.Runc}, {"kata", harness.Kata}} {
		if *onlyRuntime != "" && *onlyRuntime != r.name {
			continue
		}
		t.Run(r.name, func(t *testing.T) {
			this := begin(t, r.runtime)
			if r.runtime == harness.Runc && answered(this, f) {
				return
			}
			f(this)
		})
	}
}

// kata runs a part of a test with kata alone: what it does has no meaning with
// runc.
func kata(t *testing.T, name string, f func(t *test)) {
	t.Helper()
	if *onlyRuntime == "runc" {
		return
	}
	t.Run(name, func(t *testing.T) { f(begin(t, harness.Kata)) })
}
