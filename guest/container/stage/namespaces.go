package stage

import (
	"fmt"
	"strings"

	"golang.org/x/sys/unix"

	"kata/api/ocipb"
	"kata/guest/mount"
)

// namespaceFlags are the CLONE_NEW* flags of OCI's namespace types.
var namespaceFlags = map[string]int{
	"pid": unix.CLONE_NEWPID, "network": unix.CLONE_NEWNET, "mount": unix.CLONE_NEWNS, "ipc": unix.CLONE_NEWIPC,
	"uts": unix.CLONE_NEWUTS, "user": unix.CLONE_NEWUSER, "cgroup": unix.CLONE_NEWCGROUP, "time": unix.CLONE_NEWTIME,
}

// NamespaceFlag returns the CLONE_NEW* flag of an OCI namespace type.
func NamespaceFlag(name string) (flag int, ok bool) {
	flag, ok = namespaceFlags[name]
	return flag, ok
}

// enterNamespaces joins the namespaces that have a path and makes a new cgroup
// namespace. The others are there already: new ones since clone(2), a joined
// pid namespace since the runtime forked into it.
func enterNamespaces(namespaces []*ocipb.LinuxNamespace) error {
	type join struct {
		path     string
		fd, flag int
	}
	var joins []join
	newCgroup := false
	for _, n := range namespaces {
		flag := namespaceFlags[n.Type]
		if n.Path == "" {
			newCgroup = newCgroup || flag == unix.CLONE_NEWCGROUP
			continue
		}
		if flag == unix.CLONE_NEWPID {
			continue
		}
		fd, err := unix.Open(n.Path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("%s namespace %s: %w", n.Type, n.Path, err)
		}
		joins = append(joins, join{n.Path, fd, flag})
	}
	for _, j := range joins {
		if err := unix.Setns(j.fd, j.flag); err != nil {
			return fmt.Errorf("join namespace %s: %w", j.path, err)
		}
		unix.Close(j.fd)
	}
	if !newCgroup {
		return nil
	}
	// Not by clone(2): its root would be the agent's cgroup, since the fork
	// moves the child into the container's cgroup only afterwards.
	if err := unix.Unshare(unix.CLONE_NEWCGROUP); err != nil {
		return fmt.Errorf("new cgroup namespace: %w", err)
	}
	return nil
}

// setNames sets host and domain name of the container's uts namespace.
func setNames(host, domain string) error {
	if host != "" {
		if err := unix.Sethostname([]byte(host)); err != nil {
			return fmt.Errorf("set host name %q: %w", host, err)
		}
	}
	if domain != "" {
		if err := unix.Setdomainname([]byte(domain)); err != nil {
			return fmt.Errorf("set domain name %q: %w", domain, err)
		}
	}
	return nil
}

// setSysctls writes kernel parameters. The procfs for it is mounted nowhere: on
// /proc there may be anything.
func setSysctls(sysctls map[string]string) error {
	if len(sysctls) == 0 {
		return nil
	}
	proc, err := mount.FS("proc", "proc", nil, mount.Attr{})
	if err != nil {
		return fmt.Errorf("procfs for sysctl: %w", err)
	}
	defer proc.Close()
	for key, value := range sysctls {
		if err := setSysctl(proc.FD(), key, value); err != nil {
			return fmt.Errorf("sysctl %s=%s: %w", key, value, err)
		}
	}
	return nil
}

func setSysctl(proc int, key, value string) error {
	fd, err := unix.Openat2(proc, "sys/"+SysctlPath(key), &unix.OpenHow{
		Flags:   unix.O_WRONLY | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_XDEV,
	})
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	_, err = unix.Write(fd, []byte(value))
	return err
}

// SysctlPath returns the path below /proc/sys of a kernel parameter, whose
// parts are separated by dots, or by slashes if a slash comes first; then a dot
// stands for itself, as in sysctl(8).
func SysctlPath(key string) string {
	if i := strings.IndexAny(key, "./"); i >= 0 && key[i] == '/' {
		return key
	}
	return strings.Map(func(r rune) rune {
		switch r {
		case '.':
			return '/'
		case '/':
			return '.'
		}
		return r
	}, key)
}

// joinKeyring gives the container a session keyring of its own, which its execs
// join by name. A kernel without keys needs none.
func joinKeyring(id string) error {
	ring, err := unix.KeyctlJoinSessionKeyring("_ses." + id)
	if err == unix.ENOSYS {
		return nil
	}
	if err != nil {
		return fmt.Errorf("join the session keyring: %w", err)
	}
	// What a new session keyring has (all for the possessor; view, read and
	// link for the owner), and search for the owner, without which an exec
	// would not find it.
	const permissions = 0x3f1b0000
	if err := unix.KeyctlSetperm(ring, permissions); err != nil && err != unix.EACCES {
		return fmt.Errorf("share the session keyring: %w", err)
	}
	return nil
}
