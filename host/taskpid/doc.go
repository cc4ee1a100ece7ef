// Package taskpid gives a container a pid on the host.
//
// containerd's clients take a task's pid for the container's first process and
// look at it through /proc: "nerdctl cp" copies through /proc/PID/root, Docker
// and CNI reach the network namespace as /proc/PID/ns/net, "stats" counts its
// interfaces, "top" and cAdvisor list it, nsenter enters it. A container of a VM
// has no process there. With the shim's pid in its place a copy into the
// container's /tmp lands in the host's /tmp.
//
// So each container gets a process that does nothing, as the pause process of a
// Kubernetes pod does nothing: [Start] starts it, [Process.Exec] another one for
// an exec. What it shows is what the host has of the container:
//
//	root, cwd    the root file system as the host sees it, in a mount namespace
//	             that has nothing else; read-only if the container's is. When
//	             the host cannot see it: an empty directory that nobody can
//	             write, so that a copy fails
//	ns/net       the pod's network namespace, never the host's by default
//	cgroup       the pod's
//	comm, argv   kata:ID
//
// What it could do to the host is nothing: it has no capability and no open
// file, cannot gain privileges, is not dumpable, and its seccomp filter lets it
// call pause(2) and exit(2). It belongs to root, so that no user of the host can
// signal it; it takes no signal but SIGKILL and SIGSTOP. What a client runs
// through it is held off as well: the root file system, whose content is the
// guest's, is mounted nosuid, nodev and noexec.
//
// # Life cycle
//
// The process lives as long as the container: the caller ends it when the
// container has ended, and ends the container when [Process.Done] closes, since
// somebody has killed the process. It dies with the shim that started it
// (PR_SET_PDEATHSIG).
//
// # How it is made
//
// The program is an ELF file of less than a page, made here in a memory file
// (memfd_create(2)): 128 bytes of code and a table of the system calls to make.
// What has to happen between clone(2) and the final pause(2) is that table. See
// program.go.
package taskpid
