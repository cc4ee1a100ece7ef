//go:build vm

package share_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"kata/api"
	"kata/host/guestvm"
	"kata/host/process"
	"kata/host/share"
	"kata/host/share/sharetest"
	"kata/host/undo"
	"kata/host/vmm"
	"kata/host/vmm/vmmtest"
	"kata/test/pace"
)

// pod is a test guest with a tree, a virtiofsd and a connection.
type pod struct {
	t       *testing.T
	tree    *share.Tree
	daemon  guestvm.Server
	machine guestvm.Machine
	conn    net.Conn
	mu      sync.Mutex // one request at a time
	out     *json.Encoder
	in      *json.Decoder
}

const root = "/mnt"

// limit bounds what has to happen soon.
const limit = 20 * time.Second

func within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), pace.Of(limit))
	t.Cleanup(cancel)
	return ctx
}

// parts are a pod's, with a listener for the guest's connection.
type parts struct {
	*guestvm.Host
	requests net.Listener
	server   guestvm.Server
}

// Link implements guestvm.Parts.
func (p *parts) Link(socket string) (guestvm.Link, error) {
	link, err := p.Host.Link(socket)
	if err == nil {
		p.requests, err = link.Listen(sharetest.Port)
	}
	return link, err
}

// Serve implements guestvm.Parts.
func (p *parts) Serve(ctx context.Context, files guestvm.Files, socket string) (_ guestvm.Server, err error) {
	p.server, err = p.Host.Serve(ctx, files, socket)
	return p.server, err
}

// startPod boots a guest and mounts the tree in it. change may alter how the
// daemon runs.
func startPod(t *testing.T, change func(*share.DaemonConfig)) *pod {
	t.Helper()
	dir := t.TempDir() // removed after the pod has ended
	log, spawner, stack := slog.New(slog.DiscardHandler), process.NewSpawner(), undo.New(new(undo.Memory))
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), pace.Of(limit))
		defer cancel()
		if err := stack.Run(ctx); err != nil {
			t.Errorf("end the pod: %v", err)
		}
		spawner.Close()
	})
	parts := &parts{Host: &guestvm.Host{
		Share:   share.DaemonConfig{Paths: []string{"/usr/libexec/virtiofsd", "/usr/lib/qemu/virtiofsd"}, Cache: "auto"},
		Spawner: spawner, Log: log,
	}}
	if change != nil {
		change(&parts.Share)
	}
	v, err := guestvm.Boot(within(t), guestvm.Config{
		Machine: vmm.Spec{
			ID: "share", Dir: dir, VCPUs: 1, MemoryMiB: 256,
			Kernel: vmmtest.Kernel(t), Initrd: vmmtest.Initrd(t, "kata/host/share/sharetest/init"),
		},
		Accel: vmm.AccelTCG, Share: true, StopTimeout: limit, Log: log,
	}, parts, stack)
	if err != nil {
		t.Fatal(err)
	}
	p := &pod{t: t, tree: v.Files().(*share.Tree), daemon: parts.server, machine: v.Machine()}
	if p.conn, err = parts.requests.Accept(); err != nil {
		t.Fatalf("guest: %v: %v", err, p.machine.Err())
	}
	_ = p.conn.SetDeadline(time.Now().Add(pace.Of(vmmtest.Limit)))
	p.out, p.in = json.NewEncoder(p.conn), json.NewDecoder(p.conn)
	p.ok(sharetest.Request{Op: "mount", Path: root, Other: api.ShareTag})
	return p
}

// ask has the guest do something.
func (p *pod) ask(q sharetest.Request) (sharetest.Reply, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var reply sharetest.Reply
	err := p.out.Encode(q)
	if err == nil {
		err = p.in.Decode(&reply)
	}
	return reply, err
}

// ok fails the test if the guest cannot do it.
func (p *pod) ok(q sharetest.Request) sharetest.Reply {
	p.t.Helper()
	reply, err := p.ask(q)
	if err != nil {
		p.t.Fatalf("%s %s: %v; machine: %v; virtiofsd: %v", q.Op, q.Path, err, p.machine.Err(), p.daemon.Err())
	}
	if reply.Errno != 0 {
		p.t.Errorf("%s %s %s in the guest: %s", q.Op, q.Path, q.Other, reply.Err)
	}
	return reply
}

// refused checks that the guest gets an error.
func (p *pod) refused(q sharetest.Request, want syscall.Errno) {
	p.t.Helper()
	reply, err := p.ask(q)
	if err != nil {
		p.t.Fatal(err)
	}
	if reply.Errno != want {
		p.t.Errorf("%s %s in the guest: errno %d (%s), want %d (%s)", q.Op, q.Path, reply.Errno, reply.Err, want, want)
	}
}

func (p *pod) stat(path string) sharetest.Stat {
	p.t.Helper()
	return p.ok(sharetest.Request{Op: "stat", Path: path}).Stat
}

func (p *pod) wantRead(path, want string) {
	p.t.Helper()
	if got := p.ok(sharetest.Request{Op: "read", Path: path}); string(got.Data) != want {
		p.t.Errorf("the guest reads %q from %s, want %q", got.Data, path, want)
	}
}

func (p *pod) write(path, content string) {
	p.t.Helper()
	p.ok(sharetest.Request{Op: "write", Path: path, Data: []byte(content), N: 0o644})
}

// inGuest turns a path that the tree returned into where this guest has it.
func inGuest(path string) string { return root + strings.TrimPrefix(path, api.GuestShare) }

func (p *pod) addRootfs(cid, source string, readonly bool) string {
	p.t.Helper()
	path, _, err := p.tree.AddRootfs(cid, source, readonly)
	if err != nil {
		p.t.Fatal(err)
	}
	return inGuest(path)
}

func TestGuestSeesWhatIsBoundLater(t *testing.T) {
	for _, sandbox := range []string{"namespace", "chroot"} {
		t.Run(sandbox, func(t *testing.T) {
			p := startPod(t, func(cfg *share.DaemonConfig) { cfg.Sandbox = sandbox })
			source := share.NewRootfs(t)
			if names := p.ok(sharetest.Request{Op: "list", Path: root}).Names; len(names) != 0 {
				t.Errorf("the empty tree holds %v", names)
			}
			p.refused(sharetest.Request{Op: "mkdir", Path: root + "/own"}, syscall.EROFS)

			rw := p.addRootfs("rw", source, false)
			p.wantRead(rw+"/file", "outer")
			p.wantRead(rw+"/inner/file", "inner")
			p.write(rw+"/from-guest", "hello")
			share.WantContent(t, source+"/from-guest", "hello")
			p.refused(sharetest.Request{Op: "mkdir", Path: root + "/rw/beside"}, syscall.EROFS)

			// The same files, read-only: which mount they are reached by counts.
			ro := p.addRootfs("ro", source, true)
			p.wantRead(ro+"/from-guest", "hello")
			for _, path := range []string{ro + "/new", ro + "/from-guest", ro + "/inner/new", ro + "/inner/file"} {
				p.refused(sharetest.Request{Op: "write", Path: path, N: 0o644}, syscall.EROFS)
			}
			p.refused(sharetest.Request{Op: "chmod", Path: ro + "/file", N: 0o777}, syscall.EROFS)
			p.refused(sharetest.Request{Op: "unlink", Path: ro + "/file"}, syscall.EROFS)
			p.write(rw+"/inner/file", "INNER") // as long: attributes are cached for a second

			file, _, err := p.tree.AddBind("rw", 0, source+"/file", true, false)
			if err != nil {
				t.Fatal(err)
			}
			p.wantRead(inGuest(file), "outer")
			p.refused(sharetest.Request{Op: "write", Path: inGuest(file), N: 0o644}, syscall.EROFS)

			if err := p.tree.RemoveContainer("rw"); err != nil {
				t.Error(err)
			}
			p.wantRead(ro+"/inner/file", "INNER")
		})
	}
}

func TestGuestFileSemantics(t *testing.T) {
	p := startPod(t, nil)
	source := share.NewRootfs(t)
	if err := os.Link(source+"/file", source+"/hardlink"); err != nil {
		t.Fatal(err)
	}
	at := p.addRootfs("c1", source, false)
	for name, test := range map[string]func(*testing.T, string, string){
		"links": p.links, "renames": p.renames, "unlinked but open": p.unlinkedOpen, "mmap": p.mapped,
		"df": p.fileSystems, "find": p.find, "attributes": p.attributes, "a large directory": p.largeDirectory,
	} {
		t.Run(name, func(t *testing.T) {
			outer := p.t
			p.t = t
			defer func() { p.t = outer }()
			dir := "/" + strings.ReplaceAll(name, " ", "-")
			if err := os.Mkdir(source+dir, 0o755); err != nil {
				t.Fatal(err)
			}
			test(t, at+dir, source+dir)
		})
	}
}

func (p *pod) links(t *testing.T, at, source string) {
	made, found := p.stat(filepath.Dir(at)+"/file"), p.stat(filepath.Dir(at)+"/hardlink")
	if made.Ino != found.Ino || made.Dev != found.Dev || made.Nlink != 2 {
		t.Errorf("hard links of the host: %+v and %+v", made, found)
	}
	p.write(at+"/a", "x")
	p.ok(sharetest.Request{Op: "link", Path: at + "/a", Other: at + "/b"})
	if a, b := p.stat(at+"/a"), p.stat(at+"/b"); a.Ino != b.Ino || b.Nlink != 2 {
		t.Errorf("hard links of the guest: %+v and %+v", a, b)
	}
	p.refused(sharetest.Request{Op: "link", Path: at + "/a", Other: filepath.Dir(at) + "/inner/a"}, syscall.EXDEV)
	p.ok(sharetest.Request{Op: "symlink", Path: "/etc/passwd", Other: at + "/s"})
	if got := p.ok(sharetest.Request{Op: "readlink", Path: at + "/s"}); string(got.Data) != "/etc/passwd" {
		t.Errorf("readlink: %q", got.Data)
	}
	if target, err := os.Readlink(source + "/s"); err != nil || target != "/etc/passwd" {
		t.Errorf("readlink on the host: %q, %v", target, err)
	}
}

func (p *pod) renames(t *testing.T, at, source string) {
	p.write(at+"/a", "a")
	p.write(at+"/b", "b")
	p.ok(sharetest.Request{Op: "open", Path: at + "/b"})
	p.ok(sharetest.Request{Op: "rename", Path: at + "/a", Other: at + "/b"})
	p.wantRead(at+"/b", "a")
	if got := p.ok(sharetest.Request{Op: "fdread", Path: at + "/b", N: 10}); string(got.Data) != "b" {
		t.Errorf("the replaced file, still open, holds %q", got.Data)
	}
	p.ok(sharetest.Request{Op: "close", Path: at + "/b"})
	p.ok(sharetest.Request{Op: "mkdir", Path: at + "/dir"})
	p.write(at+"/dir/file", "x")
	p.ok(sharetest.Request{Op: "rename", Path: at + "/dir", Other: at + "/moved"})
	p.wantRead(at+"/moved/file", "x")
	p.refused(sharetest.Request{Op: "stat", Path: at + "/dir"}, syscall.ENOENT)
	p.refused(sharetest.Request{Op: "rename", Path: at + "/b", Other: filepath.Dir(at) + "/inner/b"}, syscall.EXDEV)
	share.WantContent(t, source+"/moved/file", "x")
}

func (p *pod) unlinkedOpen(t *testing.T, at, source string) {
	p.ok(sharetest.Request{Op: "open", Path: at + "/f", N: os.O_CREATE | os.O_RDWR})
	p.ok(sharetest.Request{Op: "unlink", Path: at + "/f"})
	p.ok(sharetest.Request{Op: "fdwrite", Path: at + "/f", Data: []byte("ghost")})
	if got := p.ok(sharetest.Request{Op: "fdread", Path: at + "/f", N: 10}); string(got.Data) != "ghost" {
		t.Errorf("an unlinked file holds %q", got.Data)
	}
	p.ok(sharetest.Request{Op: "close", Path: at + "/f"})
	if entries, err := os.ReadDir(source); err != nil || len(entries) != 0 {
		t.Errorf("left on the host: %v, %v", entries, err)
	}
}

func (p *pod) mapped(t *testing.T, at, source string) {
	p.write(at+"/f", "................")
	p.ok(sharetest.Request{Op: "mmap", Path: at + "/f", Data: []byte("mapped")})
	p.wantRead(at+"/f", "mapped..........")
	share.WantContent(t, source+"/f", "mapped..........")
}

func (p *pod) fileSystems(t *testing.T, at, source string) {
	var host syscall.Statfs_t
	if err := syscall.Statfs(source, &host); err != nil {
		t.Fatal(err)
	}
	got := p.ok(sharetest.Request{Op: "statfs", Path: at}).Stat
	if want := host.Blocks * uint64(host.Bsize); got.Blocks != want {
		t.Errorf("df says %d bytes, the host %d", got.Blocks, want)
	}
	// One file system to the guest: see daemonArgs.
	outer, inner, top := p.stat(at), p.stat(filepath.Dir(at)+"/inner/file"), p.stat(root)
	if outer.Dev != inner.Dev || outer.Dev != top.Dev {
		t.Errorf("devices of top %x, rootfs %x and a mount inside %x are not one", top.Dev, outer.Dev, inner.Dev)
	}
}

func (p *pod) find(t *testing.T, at, source string) {
	for i := range 50 {
		dir := fmt.Sprintf("%s/d%d", source, i%7)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		share.WriteFile(t, fmt.Sprintf("%s/f%d", dir, i), "x")
	}
	seen := map[string]string{}
	for _, name := range p.ok(sharetest.Request{Op: "walk", Path: at}).Names {
		id, path, _ := strings.Cut(name, " ")
		if other, ok := seen[id]; ok {
			t.Errorf("%s and %s are both inode %s", path, other, id)
		}
		seen[id] = path
	}
	if want := 1 + 7 + 50; len(seen) != want {
		t.Errorf("find sees %d files, want %d", len(seen), want)
	}
}

func (p *pod) attributes(t *testing.T, at, source string) {
	p.write(at+"/f", "0123456789")
	p.ok(sharetest.Request{Op: "chmod", Path: at + "/f", N: 0o640})
	p.ok(sharetest.Request{Op: "chown", Path: at + "/f", N: 1234})
	p.ok(sharetest.Request{Op: "truncate", Path: at + "/f", N: 4})
	p.wantRead(at+"/f", "0123")
	got := p.stat(at + "/f")
	if got.Mode&0o7777 != 0o640 || got.UID != 1234 || got.GID != 1234 || got.Size != 4 {
		t.Errorf("stat: %+v", got)
	}
	info, err := os.Stat(source + "/f")
	if err != nil || info.Sys().(*syscall.Stat_t).Uid != 1234 || info.Mode().Perm() != 0o640 {
		t.Errorf("stat on the host: %+v, %v", info, err)
	}
	// File capabilities (ping has some) are an attribute of this name.
	capability := []byte{1, 0, 0, 2, 0, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}
	p.ok(sharetest.Request{Op: "setxattr", Path: at + "/f", Other: "security.capability", Data: capability})
	if got := p.ok(sharetest.Request{Op: "getxattr", Path: at + "/f", Other: "security.capability"}); string(got.Data) != string(capability) {
		t.Errorf("security.capability: %x", got.Data)
	}
	p.ok(sharetest.Request{Op: "mknod", Path: at + "/null", N: syscall.S_IFCHR | 0o666})
	if got := p.stat(at + "/null"); got.Mode&syscall.S_IFMT != syscall.S_IFCHR || got.Rdev != 1<<8|3 {
		t.Errorf("device node: %+v", got)
	}
	p.ok(sharetest.Request{Op: "mknod", Path: at + "/fifo", N: syscall.S_IFIFO | 0o600})
	p.ok(sharetest.Request{Op: "chmod", Path: at + "/f", N: 0o4755})
	if got := p.stat(at + "/f"); got.Mode&0o7777 != 0o4755 {
		t.Errorf("set-user-id: %o", got.Mode)
	}
}

func (p *pod) largeDirectory(t *testing.T, at, source string) {
	const n = 3000
	for i := range n {
		share.WriteFile(t, fmt.Sprintf("%s/%0200d", source, i), "")
	}
	if names := p.ok(sharetest.Request{Op: "list", Path: at}).Names; len(names) != n {
		t.Errorf("the guest lists %d of %d files", len(names), n)
	}
	p.ok(sharetest.Request{Op: "remove", Path: at})
	if _, err := os.Stat(source); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("removed in the guest, on the host: %v", err)
	}
}

// What the host changes behind the guest's back is seen by the next open, but
// with cache=always, and what the guest writes is the host's at once.
func TestGuestCacheModes(t *testing.T) {
	for _, mode := range []string{"never", "auto", "always"} {
		t.Run(mode, func(t *testing.T) {
			p := startPod(t, func(cfg *share.DaemonConfig) { cfg.Cache = mode })
			source := share.NewRootfs(t)
			share.WriteFile(t, source+"/f", "1234")
			at := p.addRootfs("c1", source, false)
			p.wantRead(at+"/f", "1234")
			if mode != "always" { // which promises nothing
				share.WriteFile(t, source+"/f", "host") // same length, so that only the content tells
				p.wantRead(at+"/f", "host")             // opened anew
			}
			p.write(at+"/f", "guest")
			share.WantContent(t, source+"/f", "guest")
			p.wantRead(at+"/f", "guest")
		})
	}
}

func TestDaemonEndsWithTheMachine(t *testing.T) {
	p := startPod(t, nil)
	if err := p.machine.Pids()[0].Kill(within(t)); err != nil {
		t.Fatal(err)
	}
	select {
	case <-p.daemon.Done():
	case <-within(t).Done():
		t.Fatal("virtiofsd outlives the machine")
	}
	wantGroupGone(t, p.daemon.ID())
}

func TestKilledDaemonIsNoticedAndTheMachineStops(t *testing.T) {
	p := startPod(t, nil)
	if err := p.daemon.ID().Kill(within(t)); err != nil {
		t.Fatal(err)
	}
	select {
	case <-p.daemon.Done():
	case <-within(t).Done():
		t.Fatal("not noticed")
	}
	if err := p.daemon.Err(); err == nil || !strings.Contains(err.Error(), "killed") {
		t.Errorf("Err = %v", err)
	}
	wantGroupGone(t, p.daemon.ID())
	// A guest that waits for the dead daemon, and a stop all the same.
	go func() { _, _ = p.ask(sharetest.Request{Op: "list", Path: root}) }()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	if err := p.machine.Stop(ctx); err != nil {
		t.Error(err)
	}
}

// wantGroupGone checks that no process of the daemon's group stays: with its
// namespaces it is two processes.
func wantGroupGone(t *testing.T, leader process.ID) {
	t.Helper()
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range stats {
		stat, err := os.ReadFile(path)
		if err != nil {
			continue // ended meanwhile
		}
		fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
		if group := fields[2]; group != strconv.Itoa(leader.PID) {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		if err != nil {
			t.Fatal(err)
		}
		if id, err := process.Identify(pid); err == nil && id.Wait(within(t)) != nil {
			t.Errorf("process %d of virtiofsd's group is left", pid)
		}
	}
}

func TestGuestReusesAContainersID(t *testing.T) {
	p := startPod(t, nil)
	first, second := share.NewRootfs(t), share.NewRootfs(t)
	share.WriteFile(t, second+"/file", "second")
	at := p.addRootfs("c1", first, false)
	p.wantRead(at+"/file", "outer")
	if err := p.tree.RemoveContainer("c1"); err != nil {
		t.Fatal(err)
	}
	p.wantRead(p.addRootfs("c1", second, false)+"/file", "second")
}

// A container that is gone must not be held for ever: virtiofsd lets go of its
// files once the guest has dropped their names, as the agent makes it.
func TestGuestLetsGoOfARemovedContainer(t *testing.T) {
	p := startPod(t, func(cfg *share.DaemonConfig) { cfg.Cache = "never" })
	p.ok(sharetest.Request{Op: "list", Path: root})
	before := daemonFiles(t, p.daemon.ID())
	source := share.NewRootfs(t)
	at := p.addRootfs("c1", source, false)
	p.wantRead(at+"/file", "outer")
	p.wantRead(at+"/inner/file", "inner")
	if err := p.tree.RemoveContainer("c1"); err != nil {
		t.Fatal(err)
	}
	p.refused(sharetest.Request{Op: "stat", Path: root + "/c1"}, syscall.ENOENT)
	p.ok(sharetest.Request{Op: "drop", Path: root})
	// FORGET has no reply: look again, with a request in between.
	after := daemonFiles(t, p.daemon.ID())
	for limit := within(t); len(after) > len(before); after = daemonFiles(t, p.daemon.ID()) {
		if limit.Err() != nil {
			t.Fatalf("virtiofsd holds %q, before %q", after, before)
		}
		p.ok(sharetest.Request{Op: "list", Path: root})
	}
}

// daemonFiles lists what the processes of virtiofsd's group hold open.
func daemonFiles(t *testing.T, leader process.ID) []string {
	t.Helper()
	var files []string
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, path := range stats {
		stat, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
		if fields[2] != strconv.Itoa(leader.PID) {
			continue
		}
		fds, _ := filepath.Glob(filepath.Dir(path) + "/fd/*")
		for _, fd := range fds {
			target, _ := os.Readlink(fd)
			files = append(files, target)
		}
	}
	return files
}
