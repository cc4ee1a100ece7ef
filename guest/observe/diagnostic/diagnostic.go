// Package diagnostic reads what helps to find out why something ended as it did:
// the message that a container left behind, and the kernel's log.
//
// What it returns is the end of it, at most Limit bytes, as valid UTF-8. Files
// are a container's to shape: only regular ones are read.
package diagnostic

import (
	"errors"
	"os"
	"path"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"kata/guest/container/ocispec"
	"kata/guest/container/plan"
	"kata/guest/storage/inroot"
	"kata/lib/fmt"
)

// Limit bounds an answer in bytes.
const Limit = 64 << 10

const (
	// pathAnnotation is what Kubernetes says of where a container writes its
	// last words, and defaultPath what it is if nothing is said.
	pathAnnotation = "io.kubernetes.container.terminationMessagePath"
	defaultPath    = "/dev/termination-log"
)

// KernelLog returns the end of the kernel's log, a line for each record with its
// level and time (syslog(2)).
func KernelLog() (string, error) {
	buf := make([]byte, Limit)
	n, err := unix.Klogctl(unix.SYSLOG_ACTION_READ_ALL, buf)
	if err != nil {
		return "", os.NewSyscallError("syslog", err)
	}
	return clean(buf[:n]), nil
}

// TerminationMessage returns what a container left in the file for its last
// words: the file that is mounted there, else the one in its root file system. A
// file that does not exist is an empty message.
func TerminationMessage(spec *ocispec.Container) (string, error) {
	name := spec.Annotations()[pathAnnotation]
	if name == "" {
		name = defaultPath
	}
	name = path.Clean("/" + name)
	text, err := read(&spec.Plan, name)
	if errors.Is(err, unix.ENOENT) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("termination message %s: %w", name, err)
	}
	return text, nil
}

// read returns the end of the file called name in the container. It finds out
// what it is before it opens it: a device may do something at that.
func read(p *plan.Plan, name string) (string, error) {
	at, err := find(p, name)
	if err != nil {
		return "", err
	}
	defer unix.Close(at)
	var st unix.Stat_t
	if err := unix.Fstat(at, &st); err != nil {
		return "", err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return "", errors.New("it is not a regular file")
	}
	fd, err := unix.Open("/proc/self/fd/"+strconv.Itoa(at), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", err
	}
	defer unix.Close(fd)
	buf := make([]byte, min(st.Size, Limit))
	n, err := unix.Pread(fd, buf, max(0, st.Size-Limit))
	return clean(buf[:max(n, 0)]), err
}

// find returns an O_PATH descriptor of the file: for a mount of its source, which
// is the guest's, and else without leaving the container's root.
func find(p *plan.Plan, name string) (int, error) {
	for i := range p.Mounts {
		if m := &p.Mounts[i]; path.Clean("/"+m.Destination) == name {
			return unix.Open(m.Source, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		}
	}
	root, err := unix.Open(p.Root.Path, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	defer unix.Close(root)
	return inroot.Open(root, name, unix.O_PATH)
}

// clean makes a string of any bytes.
func clean(text []byte) string { return strings.ToValidUTF8(string(text), "\ufffd") }
