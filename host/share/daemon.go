package share

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"kata/host/process"
	"kata/host/unixsocket"
)

// DaemonConfig says how to run virtiofsd. There are no defaults here: values
// come from the configuration.
type DaemonConfig struct {
	Paths     []string // candidates; the first that exists is used
	Socket    string   // unix socket to make, mode 0600; must not exist
	SharedDir string   // directory to serve: Tree.Export()
	Cache     string   // never (or none), metadata, auto, always
	Sandbox   string   // namespace (also when empty), chroot or none
	ExtraArgs []string // appended last
	Debug     bool     // virtiofsd logs every request to stderr
	Log       *slog.Logger
}

// Daemon is a running virtiofsd. It serves one connection and ends with it.
type Daemon struct {
	socket  string
	child   *process.Child
	stopped atomic.Bool
}

// StartDaemon starts virtiofsd on a socket that listens already when it
// returns, so the VMM may connect at once. ctx bounds the start, not the life.
// On error nothing is left. An executable that is none, or cannot be run, is
// an error that names it.
func StartDaemon(ctx context.Context, cfg DaemonConfig, spawner *process.Spawner) (*Daemon, error) {
	path, err := findDaemon(cfg.Paths)
	if err != nil {
		return nil, err
	}
	if err := checkDir(cfg.SharedDir); err != nil {
		return nil, err
	}
	kind, err := detectFlavour(ctx, path, spawner)
	if err != nil {
		return nil, err
	}
	const childFD = 3 // the first of ExtraFiles
	argv, err := daemonArgs(kind, cfg, childFD)
	if err != nil {
		return nil, err
	}
	listener, err := unixsocket.Bind(cfg.Socket, 1)
	if err != nil {
		return nil, err
	}
	defer listener.Close()

	cmd := exec.Command(path, argv...)
	cmd.ExtraFiles = []*os.File{listener}
	cfg.Log.Debug("start virtiofsd", "path", path, "flavour", kind.String(), "args", argv)
	child, err := spawner.Launch(cmd)
	if err != nil {
		return nil, errors.Join(err, os.Remove(cfg.Socket))
	}
	return &Daemon{socket: cfg.Socket, child: child}, nil
}

// ID returns the identity of virtiofsd's first process; it leads the group
// that the others are in.
func (d *Daemon) ID() process.ID { return d.child.ID() }

// Done is closed when virtiofsd has ended.
func (d *Daemon) Done() <-chan struct{} { return d.child.Done() }

// Err says, after Done, why virtiofsd ended, with the last lines of its
// stderr; nil after a Stop that was asked for.
func (d *Daemon) Err() error {
	select {
	case <-d.child.Done():
	default:
		return nil
	}
	if d.stopped.Load() {
		return nil
	}
	if err := d.child.Err(); err != nil {
		return fmt.Errorf("virtiofsd died: %w", err)
	}
	return errors.New("virtiofsd ended: the machine closed its connection")
}

// Stop ends virtiofsd and removes its socket. It returns when every process is
// reaped, or with ctx's error, and is idempotent. There is nothing to flush:
// what the guest wrote is in the host's page cache.
func (d *Daemon) Stop(ctx context.Context) error {
	d.stopped.Store(true)
	err := d.child.Kill(ctx)
	if removeErr := os.Remove(d.socket); removeErr != nil && !errors.Is(removeErr, os.ErrNotExist) {
		err = errors.Join(err, removeErr)
	}
	return err
}

// findDaemon returns the first candidate that exists.
func findDaemon(paths []string) (string, error) {
	for _, path := range paths {
		info, err := os.Stat(path)
		switch {
		case errors.Is(err, os.ErrNotExist):
			continue
		case err != nil:
			return "", fmt.Errorf("find virtiofsd: %w", err)
		case info.IsDir() || info.Mode()&0o111 == 0:
			return "", fmt.Errorf("find virtiofsd: %s is not an executable file", path)
		}
		return path, nil
	}
	return "", fmt.Errorf("find virtiofsd: none of %s: %w", strings.Join(paths, ", "), os.ErrNotExist)
}

func checkDir(dir string) error {
	info, err := os.Stat(dir)
	if err != nil {
		return fmt.Errorf("shared directory: %w", err)
	}
	if !info.IsDir() {
		return fmt.Errorf("shared directory %s: %w", dir, unix.ENOTDIR)
	}
	return nil
}
