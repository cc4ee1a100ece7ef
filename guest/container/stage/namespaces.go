package stage

import (
	"strings"

	"golang.org/x/sys/unix"

	"kata/api/ocipb"
	"kata/guest/storage/mount"
	"kata/lib/fmt"
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
// pid namespace since the runtime forked into it, and if born all but that of
// the mounts.
func enterNamespaces(namespaces []*ocipb.LinuxNamespace, born bool) error {
	type join struct {
		path     string
		fd, flag int
	}
	var joins []join
	var mounts *join
	newCgroup := false
	for _, n := range namespaces {
		flag := namespaceFlags[n.Type]
		if n.Path == "" {
			newCgroup = newCgroup || flag == unix.CLONE_NEWCGROUP
			continue
		}
		if flag == unix.CLONE_NEWPID || born && flag != unix.CLONE_NEWNS {
			continue
		}
		fd, err := unix.Open(n.Path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("%s namespace %s: %w", n.Type, n.Path, err)
		}
		j := join{n.Path, fd, flag}
		if flag == unix.CLONE_NEWNS {
			mounts = &j // last: nothing can be opened afterwards
			continue
		}
		joins = append(joins, j)
	}
	if mounts != nil {
		// A thread that enters one shares working directory and root with none.
		if err := unix.Unshare(unix.CLONE_FS); err != nil {
			return fmt.Errorf("unshare: %w", err)
		}
		joins = append(joins, *mounts)
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

// JoinsMounts says whether a container has the mounts of a namespace that
// exists, and therefore no root file system and mounts of its own.
func JoinsMounts(spec *ocipb.Spec) bool {
	for _, n := range spec.Linux.GetNamespaces() {
		if n.Type == "mount" && n.Path != "" {
			return true
		}
	}
	return false
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

// SetSysctls writes kernel parameters and ends with the first error that check,
// which is told how it went with each, returns. The procfs for it is mounted
// nowhere: on /proc there may be anything.
func SetSysctls(sysctls map[string]string, check func(key string, err error) error) error {
	if len(sysctls) == 0 {
		return nil
	}
	proc, err := mount.FS("proc", "proc", nil, mount.Attr{})
	if err != nil {
		return fmt.Errorf("procfs for sysctl: %w", err)
	}
	defer proc.Close()
	for key, value := range sysctls {
		if err := check(key, setSysctl(proc.FD(), SysctlPath(key), value)); err != nil {
			return fmt.Errorf("sysctl %s=%s: %w", key, value, err)
		}
	}
	return nil
}

func setSysctl(proc int, path, value string) error {
	fd, err := unix.Openat2(proc, "sys/"+path, &unix.OpenHow{
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
