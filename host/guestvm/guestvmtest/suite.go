package guestvmtest

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"kata/api"
	"kata/api/agentpb"
	"kata/api/ocipb"
	"kata/api/ttrpc"
	"kata/host/guestvm"
	"kata/host/vsock"
)

// limit is longer than anything takes on a machine of any speed.
const limit = 2 * time.Minute

// LinkUnderTest is a link with a guest at its other end.
type LinkUnderTest struct {
	Link vsock.Dialer
	// Echo is a port of the guest that gives back what it gets, until the end of
	// that; Refused one that nobody listens on.
	Echo, Refused uint32
	// Connect has the guest connect to a port of the host, once.
	Connect func(port uint32)
	// End ends the machine.
	End func()
}

// TestLink is the suite of links.
func TestLink(t *testing.T, l LinkUnderTest) {
	dial := func(t *testing.T) net.Conn {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), limit)
		defer cancel()
		c, err := l.Link.Dial(ctx, l.Echo)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		return c
	}
	t.Run("a connection carries bytes both ways, and each end by itself", func(t *testing.T) {
		echoes(t, dial(t))
	})
	t.Run("connections have ports of their own", func(t *testing.T) {
		one, two := dial(t).LocalAddr().(*vsock.Addr), dial(t).LocalAddr().(*vsock.Addr)
		if one.Port == 0 || one.Port == two.Port {
			t.Errorf("they are %s and %s", one, two)
		}
	})
	t.Run("a port that nobody listens on is refused", func(t *testing.T) {
		if _, err := l.Link.Dial(t.Context(), l.Refused); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("dial gave %v", err)
		}
	})
	t.Run("a dial ends with its context", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if c, err := l.Link.Dial(ctx, l.Echo); err == nil {
			_ = c.Close() // it was faster
		}
	})
	t.Run("the guest connects to a port of the host", func(t *testing.T) {
		const port = 4242
		host, err := l.Link.Listen(port)
		if err != nil {
			t.Fatal(err)
		}
		defer host.Close()
		if other, err := l.Link.Listen(port); err == nil {
			_ = other.Close()
			t.Error("two listen on one port")
		}
		go l.Connect(port)
		c, err := host.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if a := c.LocalAddr().(*vsock.Addr); a.Port != port || a.CID != vsock.HostCID {
			t.Errorf("our end is %s", a)
		}
	})
	t.Run("the end of the machine ends everything", func(t *testing.T) {
		c := dial(t)
		host, err := l.Link.Listen(4243)
		if err != nil {
			t.Fatal(err)
		}
		defer host.Close()
		l.End()
		_ = c.SetReadDeadline(time.Now().Add(limit))
		if _, err := c.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("read gave %v", err)
		}
		if c, err := l.Link.Dial(t.Context(), l.Echo); err == nil {
			_ = c.Close()
			t.Error("a dial succeeded")
		}
	})
}

func echoes(t *testing.T, c net.Conn) {
	t.Helper()
	_ = c.SetDeadline(time.Now().Add(limit))
	sent := strings.Repeat("0123456789abcdef", 16<<10)
	go func() {
		_, _ = io.WriteString(c, sent)
		_ = c.(interface{ CloseWrite() error }).CloseWrite()
	}()
	got, err := io.ReadAll(c)
	if err != nil || string(got) != sent {
		t.Errorf("%d bytes came back of %d, %v", len(got), len(sent), err)
	}
}

// TestFiles is the suite of trees; make makes one in a directory that is not
// there.
func TestFiles(t *testing.T, make func(t *testing.T, dir string) guestvm.Files) {
	source := t.TempDir()
	plain := filepath.Join(source, "plain")
	if err := os.WriteFile(plain, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name string
		run  func(t *testing.T, dir string, f guestvm.Files)
	}{
		{"what is added has a path in the guest and a target on the host", func(t *testing.T, dir string, f guestvm.Files) {
			target := f.RootfsTarget("c1")
			path, _, err := f.AddRootfs("c1", source, false)
			rest, ok := strings.CutPrefix(path, api.GuestShare+"/")
			if err != nil || !ok || !strings.HasPrefix(target, dir) || !strings.HasSuffix(target, "/"+rest) {
				t.Errorf("path %s, target %s, %v", path, target, err)
			}
			target = f.BindTarget("c1", 0, plain)
			path, _, err = f.AddBind("c1", 0, plain, true, false)
			rest, ok = strings.CutPrefix(path, api.GuestShare+"/")
			if err != nil || !ok || !strings.HasPrefix(target, dir) || !strings.HasSuffix(target, "/"+rest) {
				t.Errorf("path %s, target %s, %v", path, target, err)
			}
		}},
		{"what is not there is an error", func(t *testing.T, _ string, f guestvm.Files) {
			_, _, err := f.AddRootfs("c1", filepath.Join(source, "none"), false)
			_, _, fileErr := f.AddRootfs("c1", plain, false)
			_, _, bindErr := f.AddBind("c1", 0, filepath.Join(source, "none"), false, true)
			if !errors.Is(err, os.ErrNotExist) || !errors.Is(fileErr, syscall.ENOTDIR) || !errors.Is(bindErr, os.ErrNotExist) {
				t.Errorf("%v, %v, %v", err, fileErr, bindErr)
			}
		}},
		{"an id that is no name is an error", func(t *testing.T, _ string, f guestvm.Files) {
			for _, id := range []string{"", ".", "..", "a/b"} {
				if _, _, err := f.AddRootfs(id, source, false); err == nil {
					t.Errorf("%q was taken", id)
				}
			}
		}},
		{"a target is taken once", func(t *testing.T, _ string, f guestvm.Files) {
			_, _, err := f.AddBind("c1", 0, source, false, true)
			_, _, again := f.AddBind("c1", 0, source, false, true)
			_, _, other := f.AddBind("c1", 1, source, false, true)
			if err != nil || again == nil || other != nil {
				t.Errorf("%v, %v, %v", err, again, other)
			}
		}},
		{"what is taken away may be added again, and everything may be repeated", func(t *testing.T, _ string, f guestvm.Files) {
			for range 2 {
				_, undo, err := f.AddRootfs("c1", source, false)
				err = errors.Join(err, undo(), undo(), f.RemoveContainer("c1"), f.RemoveContainer("c1"), undo())
				if err != nil {
					t.Error(err)
				}
			}
		}},
		{"nothing is added after the end", func(t *testing.T, _ string, f guestvm.Files) {
			_, undo, err := f.AddRootfs("c1", source, false)
			if err := errors.Join(err, f.Close(), f.Close(), undo(), f.RemoveContainer("c1")); err != nil {
				t.Error(err)
			}
			if _, _, err := f.AddRootfs("c1", source, false); !errors.Is(err, os.ErrClosed) {
				t.Errorf("adding gave %v", err)
			}
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "tree")
			f := make(t, dir)
			defer func() {
				if err := f.Close(); err != nil {
					t.Error(err)
				}
			}()
			test.run(t, dir, f)
		})
	}
}

// TestMachine is the suite of machines' lives; make makes one that has not been
// started, and what makes it die by itself. host/vmm/vmmtest has what real drivers
// do besides.
func TestMachine(t *testing.T, make func(t *testing.T) (m guestvm.Machine, die func())) {
	bounded := func(t *testing.T) context.Context {
		ctx, cancel := context.WithTimeout(context.Background(), limit)
		t.Cleanup(cancel)
		return ctx
	}
	ended := func(t *testing.T, m guestvm.Machine) {
		t.Helper()
		select {
		case <-m.Done():
		case <-time.After(limit):
			t.Fatal("it has not ended")
		}
	}
	t.Run("it runs until it is stopped", func(t *testing.T) {
		m, _ := make(t)
		if err := m.Start(bounded(t)); err != nil {
			t.Fatal(err)
		}
		select {
		case <-m.Done():
			t.Fatalf("it has ended: %v", m.Err())
		default:
		}
		if err := m.Start(bounded(t)); err == nil {
			t.Error("it was started twice")
		}
		for range 2 {
			if err := m.Stop(bounded(t)); err != nil {
				t.Error(err)
			}
		}
		ended(t, m)
		if err := m.Err(); err != nil || len(m.Pids()) != 0 {
			t.Errorf("after a stop: %v, processes %v", err, m.Pids())
		}
	})
	t.Run("it may be stopped before it is started", func(t *testing.T) {
		m, _ := make(t)
		if err := m.Stop(bounded(t)); err != nil {
			t.Error(err)
		}
		ended(t, m)
		if err := m.Start(bounded(t)); err == nil {
			t.Error("it was started after its end")
		}
	})
	t.Run("it dies by itself", func(t *testing.T) {
		m, die := make(t)
		if err := m.Start(bounded(t)); err != nil {
			t.Fatal(err)
		}
		die()
		ended(t, m)
		if m.Err() == nil {
			t.Error("its death has no reason")
		}
		if err := m.Stop(bounded(t)); err != nil || m.Err() == nil {
			t.Errorf("stop gave %v; the reason is now %v", err, m.Err())
		}
	})
}

// AgentUnderTest is an agent with a sandbox and without containers.
type AgentUnderTest struct {
	Client *agentpb.AgentServiceClient
	// Exits3 is a container whose process ends with 3, Sleeps one that goes on.
	Exits3, Sleeps func() *ocipb.Spec
}

// TestAgent is the suite of what a sandbox needs of an agent.
func TestAgent(t *testing.T, a AgentUnderTest) {
	call := func(t *testing.T) context.Context {
		ctx, cancel := context.WithTimeout(context.Background(), limit)
		t.Cleanup(cancel)
		return ctx
	}
	create := func(t *testing.T, id string, spec *ocipb.Spec) error {
		_, err := a.Client.CreateContainer(call(t), &agentpb.CreateContainerRequest{ContainerId: id, OCI: spec})
		return err
	}
	start := func(t *testing.T, id string) error {
		_, err := a.Client.StartContainer(call(t), &agentpb.StartContainerRequest{ContainerId: id})
		return err
	}
	remove := func(t *testing.T, id string) error {
		_, err := a.Client.RemoveContainer(call(t), &agentpb.RemoveContainerRequest{ContainerId: id})
		return err
	}
	wait := func(t *testing.T, id string) (int32, error) {
		r, err := a.Client.WaitProcess(call(t), &agentpb.WaitProcessRequest{ContainerId: id})
		return r.GetStatus(), err
	}
	kill := func(t *testing.T, id string, all bool) error {
		_, err := a.Client.SignalProcess(call(t), &agentpb.SignalProcessRequest{ContainerId: id, Signal: 9, All: all})
		return err
	}
	t.Run("a container that is not there is not found", func(t *testing.T) {
		_, waitErr := wait(t, "none")
		for what, err := range map[string]error{"start": start(t, "none"), "remove": remove(t, "none"), "wait": waitErr, "kill": kill(t, "none", false)} {
			if ttrpc.CodeOf(err) != ttrpc.NotFound {
				t.Errorf("%s: %v", what, err)
			}
		}
	})
	t.Run("a process ends with its status, which may be asked for again", func(t *testing.T) {
		if err := errors.Join(create(t, "c1", a.Exits3()), start(t, "c1")); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if status, err := wait(t, "c1"); err != nil || status != 3 {
				t.Errorf("status %d, %v", status, err)
			}
		}
		if err := start(t, "c1"); err == nil {
			t.Error("it was started twice")
		}
		if err := remove(t, "c1"); err != nil {
			t.Error(err)
		}
	})
	t.Run("an id is taken once, and free after the removal", func(t *testing.T) {
		if err := create(t, "c1", a.Sleeps()); err != nil {
			t.Fatal(err)
		}
		if err := create(t, "c1", a.Sleeps()); ttrpc.CodeOf(err) != ttrpc.AlreadyExists {
			t.Errorf("creating it twice gave %v", err)
		}
		for range 2 {
			if err := remove(t, "c1"); err != nil {
				t.Error(err)
			}
			if err := remove(t, "c1"); ttrpc.CodeOf(err) != ttrpc.NotFound {
				t.Errorf("removing it twice gave %v", err)
			}
			if err := create(t, "c1", a.Sleeps()); err != nil {
				t.Fatal(err)
			}
		}
		if err := remove(t, "c1"); err != nil {
			t.Error(err)
		}
	})
	t.Run("a removal ends who waits", func(t *testing.T) {
		if err := errors.Join(create(t, "c1", a.Sleeps()), start(t, "c1")); err != nil {
			t.Fatal(err)
		}
		waited := make(chan error, 1)
		go func() {
			status, err := wait(t, "c1")
			if err == nil && status != statusKilled {
				err = errors.New("another status")
			}
			waited <- err
		}()
		if err := remove(t, "c1"); err != nil {
			t.Error(err)
		}
		if err := <-waited; err != nil && ttrpc.CodeOf(err) != ttrpc.NotFound {
			t.Errorf("waiting gave %v", err)
		}
	})
	t.Run("SIGKILL to all ends the first process, started or not", func(t *testing.T) {
		for _, started := range []bool{false, true} {
			err := create(t, "c1", a.Sleeps())
			if started {
				err = errors.Join(err, start(t, "c1"))
			}
			if err := errors.Join(err, kill(t, "c1", true)); err != nil {
				t.Fatal(err)
			}
			if status, err := wait(t, "c1"); err != nil || status != statusKilled {
				t.Errorf("status %d, %v", status, err)
			}
			if err := remove(t, "c1"); err != nil {
				t.Error(err)
			}
		}
	})
	t.Run("a creation whose time is up leaves nothing", func(t *testing.T) {
		ctx, cancel := context.WithTimeout(context.Background(), time.Nanosecond)
		defer cancel()
		_, err := a.Client.CreateContainer(ctx, &agentpb.CreateContainerRequest{ContainerId: "c1", OCI: a.Sleeps()})
		if err == nil {
			t.Error("it was created")
		}
		if err := remove(t, "c1"); err != nil && ttrpc.CodeOf(err) != ttrpc.NotFound {
			t.Errorf("removing what there may be gave %v", err)
		}
		if err := errors.Join(create(t, "c1", a.Sleeps()), remove(t, "c1")); err != nil {
			t.Error(err)
		}
	})
}
