//go:build vm

package hotplug

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"kata/api"
	"kata/api/agentpb"
	"kata/host/process"
	"kata/host/share"
	"kata/host/vmm"
	"kata/test/harness"
	"kata/test/pace"
)

// shared is where the guest has the shared folder.
const shared = api.GuestShare

// startShare serves a tree and returns it, the pid of its server, and the device
// for it.
func startShare(t *testing.T, cache string) (tree *share.Tree, pid int, device vmm.Share) {
	t.Helper()
	dir, err := os.MkdirTemp("", "hotplug")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if tree, err = share.NewTree(filepath.Join(dir, "tree")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := tree.Close(); err != nil {
			t.Error(err)
		}
	})
	socket := filepath.Join(dir, "fs.sock")
	daemon, err := share.StartDaemon(t.Context(), share.DaemonConfig{
		Paths: []string{"/usr/libexec/virtiofsd", "/usr/lib/qemu/virtiofsd"}, Socket: socket,
		SharedDir: tree.Export(), Cache: cache, Log: slog.New(slog.DiscardHandler),
	}, process.NewSpawner())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), pace.Of(limit))
		defer cancel()
		_ = daemon.Stop(ctx)
	})
	return tree, daemon.ID().PID, vmm.Share{Socket: socket, Tag: api.ShareTag}
}

// held returns the files whose path has part in it that a process or its
// children have open.
func held(t *testing.T, pid int, part string) (files []string) {
	t.Helper()
	pids := []string{strconv.Itoa(pid)}
	children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	if err != nil {
		t.Fatal(err)
	}
	pids = append(pids, strings.Fields(string(children))...)
	for _, p := range pids {
		links, _ := filepath.Glob("/proc/" + p + "/fd/*")
		for _, link := range links {
			if file, err := os.Readlink(link); err == nil && strings.Contains(file, part) {
				files = append(files, file)
			}
		}
	}
	return files
}

// TestTheShareLetsRemovedContainersGo looks at what the host's file server keeps
// open of a container: nothing after RemoveContainer, with another container
// still at work, so that its root file system can be unmounted at once.
func TestTheShareLetsRemovedContainersGo(t *testing.T) {
	for _, cache := range []string{"auto", "always"} {
		t.Run(cache, func(t *testing.T) {
			tree, pid, device := startShare(t, cache)
			v := Boot(t, Options{Shares: []vmm.Share{device}})
			_, err := v.Agent.CreateSandbox(v.Call(), &agentpb.CreateSandboxRequest{SandboxId: "pod", Storages: []*agentpb.Storage{
				{Driver: "virtio-fs", Source: api.ShareTag, Fstype: "virtiofs", MountPoint: shared + "/"},
			}})
			v.Must(err)
			sources := map[string]string{}
			for _, id := range []string{"stays", "goes"} {
				sources[id] = v.rootfs(id)
				_, _, err := tree.AddRootfs(id, sources[id], false)
				v.Must(err)
				_, _, err = tree.AddBind(id, 0, v.Disk("volume-"+id, 1), false, false)
				v.Must(err)
			}
			spec := Spec("sleep 1000")
			spec.Root.Path = shared + "/stays/rootfs"
			_, err = v.Agent.CreateContainer(v.Call(), &agentpb.CreateContainerRequest{ContainerId: "stays", OCI: spec})
			v.Must(err)
			_, err = v.Agent.StartContainer(v.Call(), &agentpb.StartContainerRequest{ContainerId: "stays"})
			v.Must(err)
			spec = Spec("find / -xdev >/dev/null; echo hello > /home/file; cat /home/file")
			spec.Root.Path, spec.Root.Readonly = shared+"/goes/rootfs", false
			s := &agentpb.Storage{Driver: "bind", Source: shared + "/goes/mounts", MountPoint: "/run/kata-containers/goes/mounts"}
			if out := v.Run(&agentpb.CreateContainerRequest{ContainerId: "goes", OCI: spec, Storages: []*agentpb.Storage{s}}); out != "hello\n" {
				t.Errorf("the container printed %q", out)
			}
			if held(t, pid, "/goes") == nil {
				t.Error("the file server holds nothing of a container that runs: the test looks in the wrong place")
			}
			v.Remove("goes")
			// Forgetting has no answer, so it cannot be awaited otherwise.
			for deadline := time.Now().Add(pace.Of(limit)); held(t, pid, "/goes") != nil; time.Sleep(10 * time.Millisecond) {
				if time.Now().After(deadline) {
					t.Fatalf("the file server still holds %q\n%s", held(t, pid, "/goes"), v.Shell("grep virtiofs /proc/1/mountinfo"))
				}
			}
			v.Must(tree.RemoveContainer("goes"))
			if err := unix.Unmount(sources["goes"], 0); err != nil {
				t.Errorf("the root file system is busy on the host: %v", err)
			}
			if held(t, pid, "/stays") == nil {
				t.Error("the other container's files were let go too")
			}
			v.Remove("stays")
		})
	}
}

// rootfs mounts a root file system and returns where.
func (v *VM) rootfs(name string) string {
	v.Helper()
	image, err := harness.Busybox("")
	v.Must(err)
	point := filepath.Join(v.Dir, name)
	v.Must(os.Mkdir(point, 0o755))
	v.Must(unix.Mount("rootfs", point, "tmpfs", 0, ""))
	v.Cleanup(func() { _ = unix.Unmount(point, unix.MNT_DETACH) })
	v.Must(harness.WriteRootfs(filepath.Join(point, "fs"), image))
	v.Must(os.Mkdir(filepath.Join(point, "inner"), 0o755))
	// What is shared is the mount itself.
	inner := filepath.Join(v.Dir, name+"-root")
	v.Must(os.Mkdir(inner, 0o755))
	v.Must(unix.Mount(filepath.Join(point, "fs"), inner, "", unix.MS_BIND, ""))
	v.Must(unix.Unmount(point, unix.MNT_DETACH))
	return inner
}
