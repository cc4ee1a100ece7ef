package bootstrap

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	task "github.com/containerd/containerd/api/runtime/task/v2"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"kata/host/rootfs"
	"kata/host/shim/spec"
)

const (
	// exitKilled is what is reported for a container whose shim is gone:
	// 128 + SIGKILL.
	exitKilled = 137
	// serverGrace is how long a server that still runs has to end in order.
	// containerd gives all of "delete" five seconds.
	serverGrace = 2500 * time.Millisecond
	killGrace   = time.Second
	maxMounts   = 64
)

// Cleanup releases what the sandbox id of the bundle has left on the host; it
// is no error when there is nothing.
type Cleanup func(ctx context.Context, id, bundle string) error

// Delete removes what a container's shim has left, and prints how containerd is
// to report the container: as killed, with the pid it knows it by. For a container of another's pod that is
// only what its own bundle holds; else the server, if it still runs, is ended,
// and the sandbox released. It may run any number of times.
func Delete(ctx context.Context, inv Invocation, cleanup Cleanup, stdout io.Writer, log *slog.Logger) error {
	bundle, err := inv.deletedBundle()
	if err != nil {
		return err
	}
	var errs []error
	pid := readPID(bundle)
	if pid > 0 || !ofAPod(bundle) {
		if err := endServer(ctx, inv, pid); err != nil {
			errs = append(errs, err)
		}
		if err := cleanup(ctx, inv.ID, bundle); err != nil {
			errs = append(errs, fmt.Errorf("clean up sandbox %s: %w", inv.ID, err))
		}
		if err := removeSocket(bundle); err != nil {
			log.Warn("remove socket", "error", err)
		}
	}
	initPID := spec.ReadInitPID(bundle)
	if err := errors.Join(removeFiles(bundle, addressFile, pidFile), spec.RemoveInitPID(bundle)); err != nil {
		log.Warn("clean the bundle", "error", err)
	}
	if err := unmountAll(filepath.Join(bundle, "rootfs")); err != nil {
		errs = append(errs, err)
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	out, err := proto.Marshal(&task.DeleteResponse{
		Pid: uint32(initPID), ExitStatus: exitKilled, ExitedAt: timestamppb.Now(),
	})
	if err != nil {
		return fmt.Errorf("encode the answer: %w", err)
	}
	if _, err := stdout.Write(out); err != nil {
		return fmt.Errorf("print the answer: %w", err)
	}
	return nil
}

// deletedBundle is the bundle of the container to delete. Without -bundle it is
// next to the working directory, which may be another's.
func (inv *Invocation) deletedBundle() (string, error) {
	if inv.Bundle != "" {
		return filepath.Abs(inv.Bundle)
	}
	dir, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("find the bundle: %w", err)
	}
	return filepath.Join(filepath.Dir(dir), inv.ID), nil
}

// ofAPod tells whether the bundle is certainly that of a container of another's
// pod, which has no server of its own.
func ofAPod(bundle string) bool {
	annotations, err := spec.ReadAnnotations(bundle)
	if err != nil {
		return false
	}
	role, err := spec.RoleOf(annotations)
	return err == nil && role.Sandbox != ""
}

// readPID reads the pid of the bundle's server; 0 means that there is none.
func readPID(bundle string) int {
	b, err := os.ReadFile(filepath.Join(bundle, pidFile))
	if err != nil {
		return 0
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil || pid < 0 {
		return 0
	}
	return pid
}

// endServer ends the process pid, if it is this container's server: with
// SIGTERM, on which it stops its sandbox, and then with SIGKILL.
func endServer(ctx context.Context, inv Invocation, pid int) error {
	if pid <= 0 {
		return nil
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return nil // it is gone
	}
	defer unix.Close(fd)
	// The descriptor is of one process, whoever had the pid before; that it is
	// ours is known from its arguments.
	if !isServer(pid, inv) {
		return nil
	}
	for _, step := range []struct {
		signal unix.Signal
		grace  time.Duration
	}{{unix.SIGTERM, serverGrace}, {unix.SIGKILL, killGrace}} {
		if err := unix.PidfdSendSignal(fd, step.signal, nil, 0); err != nil {
			return nil // it has ended
		}
		if awaitEnd(ctx, fd, step.grace) {
			return nil
		}
	}
	return fmt.Errorf("the shim of %s (pid %d) does not end", inv.ID, pid)
}

func isServer(pid int, inv Invocation) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil {
		return false
	}
	args := bytes.Split(b, []byte{0})
	return follows(args, "-id", inv.ID) && follows(args, "-namespace", inv.Namespace)
}

func follows(args [][]byte, flag, value string) bool {
	for i, a := range args[:max(len(args)-1, 0)] {
		if string(a) == flag && string(args[i+1]) == value {
			return true
		}
	}
	return false
}

// awaitEnd waits until the process of the pidfd has ended, and tells whether it
// has.
func awaitEnd(ctx context.Context, fd int, grace time.Duration) bool {
	ctx, cancel := context.WithTimeout(ctx, grace)
	defer cancel()
	for {
		deadline, _ := ctx.Deadline()
		wait := max(0, time.Until(deadline))
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(wait.Milliseconds()))
		if err == unix.EINTR {
			continue
		}
		return n > 0
	}
}

// removeSocket removes the socket that the bundle's server had, unless somebody
// serves on it.
func removeSocket(bundle string) error {
	b, err := os.ReadFile(filepath.Join(bundle, addressFile))
	if err != nil {
		return nil //nolint:nilerr // no address, no socket
	}
	path, ok := strings.CutPrefix(strings.TrimSpace(string(b)), scheme)
	if !ok {
		return nil
	}
	return removeDead(path)
}

// unmountAll removes every mount on target. A server of ours leaves none there,
// for it mounts in a namespace of its own; containerd may.
func unmountAll(target string) error {
	for range maxMounts {
		mounted, err := isMount(target)
		if err != nil || !mounted {
			return nil //nolint:nilerr // what is not there is not mounted
		}
		if err := rootfs.Unmount(target); err != nil {
			return err
		}
	}
	return fmt.Errorf("%s is still a mount point after %d unmounts", target, maxMounts)
}

// isMount tells whether a file system is mounted on the folder path itself.
func isMount(path string) (bool, error) {
	var st unix.Statx_t
	err := unix.Statx(unix.AT_FDCWD, path, unix.AT_SYMLINK_NOFOLLOW|unix.AT_STATX_DONT_SYNC, 0, &st)
	if err != nil {
		return false, err
	}
	return st.Attributes_mask&st.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0, nil
}
