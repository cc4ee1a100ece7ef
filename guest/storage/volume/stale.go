package volume

import (
	"context"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

// ForgetStale looks at everything that is mounted below root, a shared folder,
// and unmounts what is no longer there. A mount of the host's shows up in the
// guest as a mount too; when the host has removed it the guest finds out only by
// looking, and until then the host's file server keeps it busy. root itself stays,
// but names below it that nobody uses are forgotten.
func ForgetStale(ctx context.Context, root string) error {
	table, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	points := mountsBelow(string(table), root)
	// Later mounts may be on earlier ones.
	for i := len(points) - 1; i >= 0 && err == nil; i-- {
		if err = context.Cause(ctx); err == nil {
			err = forget(points[i])
		}
	}
	if fd, err := openPlain(root); err == nil {
		if fs, err := pick(fd); err == nil { // root is mounted
			_ = unix.FsconfigReconfigure(fs) // a change of nothing drops unused names
			unix.Close(fs)
		}
		unix.Close(fd)
	}
	return err
}

// mountsBelow returns the mount points below root of a table in the form of
// mountinfo (proc(5)), in its order.
func mountsBelow(table, root string) (points []string) {
	for table != "" {
		var line string
		line, table, _ = strings.Cut(table, "\n")
		if fields := strings.Fields(line); len(fields) >= 5 {
			if point := unescape(fields[4]); strings.HasPrefix(point, root+"/") {
				points = append(points, point)
			}
		}
	}
	return points
}

// unescape replaces what mountinfo writes instead of blanks: a backslash and
// three octal digits.
func unescape(s string) string {
	out := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		c := s[i]
		if c == '\\' && i+3 < len(s) {
			c = (s[i+1]-'0')<<6 | (s[i+2]-'0')<<3 | (s[i+3] - '0')
			i += 3
		}
		out = append(out, c)
	}
	return string(out)
}

// forget unmounts point unless it is there. Looking makes the kernel ask the
// file server, and unmount what is gone by itself.
func forget(point string) error {
	fd, err := openPlain(point)
	if err == nil {
		return unix.Close(fd)
	}
	if err != unix.ENOENT && err != unix.ESTALE && err != unix.ENOTCONN {
		return nil // nobody knows, so it stays
	}
	dir, err := openPlain(path.Dir(point))
	if err != nil {
		return nil // it is gone with what it was on
	}
	err = unix.Unmount(procPath(dir)+"/"+path.Base(point), unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
	unix.Close(dir)
	if err == nil || err == unix.EINVAL || err == unix.ENOENT {
		return nil
	}
	return &os.PathError{Op: "unmount", Path: point, Err: err}
}

// openPlain opens a path that no symbolic link is on, as those of mounts are: one
// that a container has put there meanwhile leads to something else.
func openPlain(path string) (int, error) {
	how := unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_NO_SYMLINKS}
	return unix.Openat2(unix.AT_FDCWD, path, &how)
}
