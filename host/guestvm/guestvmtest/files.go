package guestvmtest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"kata/api"
	"kata/host/process"
)

// Files is a fake of the share's tree: it remembers what would be mounted.
type Files struct {
	faults *Faults
	dir    string

	mu     sync.Mutex
	binds  map[string][]string // container to targets
	closed bool
}

// NewFiles makes a tree in dir, whose steps are "files.rootfs", "files.bind",
// "files.undo", "files.remove" and "files.close".
func NewFiles(dir string, f *Faults) *Files {
	return &Files{faults: f, dir: dir, binds: make(map[string][]string)}
}

// RootfsTarget implements guestvm.Files.
func (f *Files) RootfsTarget(container string) string {
	return filepath.Join(f.dir, "mounts", container, "rootfs")
}

// BindTarget implements guestvm.Files.
func (f *Files) BindTarget(container string, n int, source string) string {
	return filepath.Join(f.dir, "mounts", container, "mounts", strconv.Itoa(n)+"-"+filepath.Base(source))
}

// AddRootfs implements guestvm.Files.
func (f *Files) AddRootfs(container, source string, _ bool) (string, func() error, error) {
	info, err := os.Stat(source)
	if err == nil && !info.IsDir() {
		err = syscall.ENOTDIR
	}
	if err != nil {
		return "", nil, err
	}
	return f.add("files.rootfs", container, source, f.RootfsTarget(container))
}

// AddBind implements guestvm.Files.
func (f *Files) AddBind(container string, n int, source string, _, _ bool) (string, func() error, error) {
	if _, err := os.Stat(source); err != nil {
		return "", nil, err
	}
	return f.add("files.bind", container, source, f.BindTarget(container, n, source))
}

func (f *Files) add(step, container, source, target string) (string, func() error, error) {
	if container == "" || container == "." || container == ".." || strings.Contains(container, "/") {
		return "", nil, fmt.Errorf("share %s: container id %q is no name", source, container)
	}
	if err := f.faults.at(context.Background(), step); err != nil {
		return "", nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return "", nil, os.ErrClosed
	}
	if slices.Contains(f.binds[container], target) {
		return "", nil, os.ErrExist
	}
	f.binds[container] = append(f.binds[container], target)
	undo := func() error {
		if err := f.faults.at(context.Background(), "files.undo"); err != nil {
			return err
		}
		f.mu.Lock()
		defer f.mu.Unlock()
		f.binds[container] = slices.DeleteFunc(f.binds[container], func(t string) bool { return t == target })
		if len(f.binds[container]) == 0 {
			delete(f.binds, container)
		}
		return nil
	}
	rest, _ := strings.CutPrefix(target, filepath.Join(f.dir, "mounts"))
	return api.GuestShare + rest, undo, nil
}

// RemoveContainer implements guestvm.Files.
func (f *Files) RemoveContainer(container string) error {
	if err := f.faults.at(context.Background(), "files.remove"); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.binds, container)
	return nil
}

// Close implements guestvm.Files.
func (f *Files) Close() error {
	if err := f.faults.at(context.Background(), "files.close"); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.binds, f.closed = map[string][]string{}, true
	return nil
}

// Shared returns what is shared of all containers, in order.
func (f *Files) Shared() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var all []string
	for _, targets := range f.binds {
		all = append(all, targets...)
	}
	slices.Sort(all)
	return all
}

// Server is a fake of the file server, whose step is "server.stop".
type Server struct {
	faults *Faults
	once   sync.Once
	done   chan struct{}
	err    error
}

// NewServer returns a server that runs.
func NewServer(f *Faults) *Server { return &Server{faults: f, done: make(chan struct{})} }

// ID implements guestvm.Server: there is no process.
func (s *Server) ID() process.ID { return process.ID{} }

// Done implements guestvm.Server.
func (s *Server) Done() <-chan struct{} { return s.done }

// Err implements guestvm.Server.
func (s *Server) Err() error {
	select {
	case <-s.done:
		return s.err
	default:
		return nil
	}
}

// Stop implements guestvm.Server.
func (s *Server) Stop(ctx context.Context) error {
	if err := s.faults.at(ctx, "server.stop"); err != nil {
		return err
	}
	s.end(nil)
	return nil
}

// Die ends the server by itself.
func (s *Server) Die() { s.end(errors.New("virtiofsd died")) }

func (s *Server) end(err error) {
	s.once.Do(func() {
		s.err = err
		close(s.done)
	})
}
