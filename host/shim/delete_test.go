package shim

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	v2 "github.com/containerd/containerd/api/runtime/task/v2"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"kata/test/pace"
)

// remove runs "delete" and returns its answer.
func (d *daemon) remove(bundle string) *v2.DeleteResponse {
	d.t.Helper()
	out, err := d.call(bundle, nil, "-bundle", bundle, "delete")
	if err != nil {
		d.t.Fatal(err)
	}
	resp := new(v2.DeleteResponse)
	if err := proto.Unmarshal(out, resp); err != nil {
		d.t.Fatal(err)
	}
	return resp
}

func TestDeleteAfterACrash(t *testing.T) {
	d := newDaemon(t)
	b := d.bundle("c1", []string{"sleep"})
	s := d.start(b, nil)
	created := new(v2.CreateTaskResponse)
	if err := s.dial().Call(t.Context(), "containerd.task.v2.Task", "Create", &v2.CreateTaskRequest{ID: "c1", Bundle: b}, created); err != nil {
		t.Fatal(err)
	}
	s.kill(unix.SIGKILL)
	s.awaitEnd()
	rootfs := filepath.Join(b, "rootfs")
	for range 2 {
		if err := unix.Mount("none", rootfs, "tmpfs", 0, ""); err != nil {
			t.Fatal(err)
		}
	}
	before := time.Now().Add(-time.Second)
	resp := d.remove(b)
	if resp.ExitStatus != 137 || resp.Pid == 0 || resp.Pid != created.Pid || int(resp.Pid) == s.pid || resp.ExitedAt.AsTime().Before(before) {
		t.Errorf("delete answers %v", resp)
	}
	if got := readFile(t, d.dir, "cleanup"); got != "c1 c1\n" {
		t.Errorf("cleaned up %q", got)
	}
	if mounts := readFile(t, "/proc/self/mountinfo"); strings.Contains(mounts, rootfs) {
		t.Error("the root file system is still mounted")
	}
	d.wantNothing(b)
	if resp := d.remove(b); resp.ExitStatus != 137 || resp.Pid != 0 {
		t.Errorf("a second delete answers %v", resp)
	}
}

func TestDeleteEndsAServerThatStillRuns(t *testing.T) {
	d := newDaemon(t)
	b := d.bundle("c1", []string{"sleep"})
	s := d.start(b, nil)
	client := s.dial()
	for method, m := range map[string][2]proto.Message{"Create": {&v2.CreateTaskRequest{ID: "c1", Bundle: b}, new(v2.CreateTaskResponse)}} {
		if err := client.Call(t.Context(), "containerd.task.v2.Task", method, m[0], m[1]); err != nil {
			t.Fatal(err)
		}
	}
	d.remove(b)
	s.awaitEnd()
	d.wantEvents("ns /tasks/create", "ns /tasks/exit 137")
	d.wantNothing(b)
}

func TestDeleteKillsAServerThatDoesNotEnd(t *testing.T) {
	d := newDaemon(t)
	b := d.bundle("c1", []string{"sleep"})
	s := d.start(b, nil)
	s.kill(unix.SIGSTOP)
	d.remove(b)
	s.awaitEnd()
	d.wantNothing(b)
}

func TestDeleteSparesAStrangerWithTheShimsPid(t *testing.T) {
	d := newDaemon(t)
	stranger := d.start(d.bundle("other", []string{"sleep"}), nil)
	b := d.bundle("c1", []string{"sleep"})
	if err := unix.Link(filepath.Join(stranger.bundle, "shim.pid"), filepath.Join(b, "shim.pid")); err != nil {
		t.Fatal(err)
	}
	d.remove(b)
	stranger.dial()
}

func TestDeleteOfABundleThatIsGone(t *testing.T) {
	d := newDaemon(t)
	b := d.bundle("c1", nil)
	out, err := d.call(b, nil, "-bundle", filepath.Join(d.dir, "gone"), "delete")
	if err != nil || len(out) == 0 {
		t.Errorf("delete: %q, %v", out, err)
	}
}

func TestACreationWhoseClientIsGoneIsAborted(t *testing.T) {
	d := newDaemon(t)
	b := d.bundle("c1", []string{"slow-boot"})
	s := d.start(b, nil)
	client := s.dial()
	result := make(chan error, 1)
	go func() {
		result <- client.Call(t.Context(), "containerd.task.v2.Task", "Create", &v2.CreateTaskRequest{ID: "c1", Bundle: b}, new(v2.CreateTaskResponse))
	}()
	other := s.dial()
	state := func() string {
		resp := new(v2.StateResponse)
		if err := other.Call(t.Context(), "containerd.task.v2.Task", "State", &v2.StateRequest{ID: "c1"}, resp); err != nil {
			return err.Error()
		}
		return resp.Status.String()
	}
	awaitState(t, state, "still being created")
	_ = client.Close()
	<-result
	awaitState(t, state, "container c1: not found")
}

func awaitState(t *testing.T, state func() string, want string) {
	t.Helper()
	for deadline := time.Now().Add(pace.Of(limit)); ; {
		got := state()
		if strings.Contains(got, want) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("state %q, want %q", got, want)
		}
	}
}
