package bootstrap

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"kata/host/unixsocket"
)

const (
	// defaultSocketDir is where containerd's own shims keep their sockets.
	defaultSocketDir = "/run/containerd/s"
	scheme           = "unix://"
	probeTimeout     = time.Second
	// suffix tells our sockets from those of other shims in the same folder.
	suffix = ".kata"
)

// socketPath is where the shim of a sandbox listens: in dir, by containerd's
// convention a hash of daemon, namespace and id, with our suffix.
func socketPath(dir string, inv Invocation, id string) string {
	return filepath.Join(dir, fmt.Sprintf("%x"+suffix, sha256.Sum256([]byte(filepath.Join(inv.Address, inv.Namespace, id)))))
}

// socketDir chooses the folder for sockets: the one that containerd names, else
// "s" in the state folder that the bundle is in, so that a private containerd
// stays private, else containerd's default.
func socketDir(named, bundle string, inv Invocation) string {
	for _, dir := range []string{named, stateSocketDir(bundle, inv)} {
		if dir != "" && len(socketPath(dir, inv, inv.ID)) <= unixsocket.MaxPath {
			return dir
		}
	}
	return defaultSocketDir
}

// stateSocketDir recognises <state>/io.containerd.runtime.v2.task/<namespace>/<id>.
func stateSocketDir(bundle string, inv Invocation) string {
	tasks := filepath.Dir(filepath.Dir(bundle))
	if filepath.Base(bundle) != inv.ID || filepath.Base(filepath.Dir(bundle)) != inv.Namespace ||
		!strings.HasPrefix(filepath.Base(tasks), "io.containerd.runtime.v2") {
		return ""
	}
	return filepath.Join(filepath.Dir(tasks), "s")
}

// Listen makes the listening socket, for root alone; closing it does not remove
// the file. The socket of a shim that is dead is replaced; that of a live one
// is an error wrapping errdefs.ErrAlreadyExists.
//
// The server listens, not Start, which may be killed before there is anybody
// who would remove the file.
func Listen(path string) (*net.UnixListener, error) {
	if len(path) > unixsocket.MaxPath {
		return nil, fmt.Errorf("socket path %s is longer than %d bytes", path, unixsocket.MaxPath)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o711); err != nil {
		return nil, fmt.Errorf("create the folder of sockets: %w", err)
	}
	l, err := bind(path)
	if errors.Is(err, unix.EADDRINUSE) {
		if err := checkFree(path); err != nil {
			return nil, err
		}
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("remove the socket of a dead shim: %w", err)
		}
		l, err = bind(path)
	}
	return l, err
}

// checkFree says whether a live shim has the socket.
func checkFree(path string) error {
	if alive(path) {
		return fmt.Errorf("a shim serves on %s: %w", path, errdefs.ErrAlreadyExists)
	}
	return nil
}

func bind(path string) (*net.UnixListener, error) {
	l, err := unixsocket.Listen(path)
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false) // by then it may be a successor's
	return l, nil
}

// alive tells whether somebody serves on the socket. Only a refusal says that
// nobody does; a queue that is full, say, does not.
func alive(path string) bool {
	conn, err := net.DialTimeout("unix", path, probeTimeout)
	if err == nil {
		_ = conn.Close()
		return true
	}
	return !errors.Is(err, unix.ECONNREFUSED) && !errors.Is(err, unix.ENOENT)
}

// Sweep removes the sockets in a folder that shims of ours have left. When
// "start" and the server are killed together, or the server before containerd
// has connected, nobody is told to clean up after them: containerd calls
// "delete" only for a shim that it has spoken to.
func Sweep(dir string) error {
	left, err := filepath.Glob(filepath.Join(dir, "*"+suffix))
	if err != nil || len(left) == 0 {
		return err
	}
	// A socket is bound before it listens, and refuses in between.
	bound, err := os.ReadFile("/proc/net/unix")
	if err != nil {
		return err
	}
	var errs []error
	for _, path := range left {
		if !bytes.Contains(bound, []byte(" "+path+"\n")) {
			errs = append(errs, removeDead(path))
		}
	}
	return errors.Join(errs...)
}
