package volume

import (
	"context"
	"errors"
	"os"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"kata/api/fmt"
)

// ForgetStale looks at everything that is mounted below root, a shared folder,
// and unmounts what is no longer there. A mount of the host's shows up in the
// guest as a mount too; when the host has removed it the guest finds out only by
// looking, and until then the host's file server keeps it busy. root itself stays.
func ForgetStale(ctx context.Context, root string) error {
	table, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	var errs []error
	// Later mounts may be on earlier ones.
	for _, point := range slices.Backward(mountsBelow(string(table), root)) {
		if ctx.Err() != nil {
			errs = append(errs, context.Cause(ctx))
			break
		}
		if err := forget(point); err != nil {
			errs = append(errs, fmt.Errorf("unmount %s: %w", point, err))
		}
	}
	return errors.Join(errs...)
}

// mountsBelow returns the mount points below root of a table in the form of
// mountinfo (proc(5)), in its order.
func mountsBelow(table, root string) []string {
	var points []string
	for line := range strings.Lines(table) {
		fields := strings.Fields(line)
		if len(fields) < 5 {
			continue
		}
		if point := unescape(fields[4]); strings.HasPrefix(point, root+"/") {
			points = append(points, point)
		}
	}
	return points
}

// unescape replaces what mountinfo writes instead of blanks: a backslash and
// three octal digits.
func unescape(s string) string {
	var out strings.Builder
	for {
		i := strings.IndexByte(s, '\\')
		if i < 0 || i+4 > len(s) {
			return out.String() + s
		}
		out.WriteString(s[:i])
		c := 0
		for _, digit := range []byte(s[i+1 : i+4]) {
			c = c*8 + int(digit-'0')
		}
		out.WriteByte(byte(c))
		s = s[i+4:]
	}
}

// forget unmounts point unless it is there. Looking makes the kernel ask the
// file server, and unmount what is gone by itself.
func forget(point string) error {
	if fd, err := openPlain(point); err == nil {
		return unix.Close(fd)
	} else if err != unix.ENOENT && err != unix.ESTALE && err != unix.ENOTCONN {
		return nil // nobody knows, so it stays
	}
	dir, err := openPlain(path.Dir(point))
	if err != nil {
		return nil // it is gone with what it was on
	}
	defer unix.Close(dir)
	err = unix.Unmount(procPath(dir)+"/"+path.Base(point), unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
	if err == unix.EINVAL || err == unix.ENOENT {
		return nil
	}
	return err
}

// openPlain opens a path that no symbolic link is on, as those of mounts are: one
// that a container has put there meanwhile leads to something else.
func openPlain(path string) (int, error) {
	how := unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_NO_SYMLINKS}
	return unix.Openat2(unix.AT_FDCWD, path, &how)
}
