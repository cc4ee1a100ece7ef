package stage

import (
	"golang.org/x/sys/unix"

	"kata/guest/container/plan"
	"kata/lib/fmt"
)

// enterNamespaces joins the namespaces that have a path and makes a new cgroup
// namespace. The others are there already: new ones since clone(2), a joined
// pid namespace since the runtime forked into it, and if entered all but that of
// the mounts.
func enterNamespaces(namespaces []plan.Namespace, entered bool) error {
	type join struct {
		path     string
		fd, flag int
	}
	var joins []join
	var mounts *join
	newCgroup := false
	for _, n := range namespaces {
		flag := n.Flag
		if n.Path == "" {
			newCgroup = newCgroup || flag == unix.CLONE_NEWCGROUP
			continue
		}
		if flag == unix.CLONE_NEWPID || entered && flag != unix.CLONE_NEWNS {
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
