// Package container is the container runtime of the guest: it creates
// containers, starts them, runs further processes in them, and removes them.
//
// A container is made by a [Runtime], of a spec that has been checked and made a
// plan (package ocispec), once; nothing here or below looks at an OCI spec:
//
//	spec, err := ocispec.Parse("web", request, ocispec.Options{})
//	c, err := rt.Create(ctx, spec, stdio, container.Options{})
//	err = c.Start(ctx)                     // execute its command
//	p, err := c.Exec(ctx, "sh", process, stdio)    // of ocispec.ParseProcess
//	<-p.Done()                             // p.Exit().Status
//	err = c.Destroy(ctx)                   // kills what is left; idempotent
//
// Create starts a stage (package stage): the agent's own binary, which builds
// the container around itself as its plan says (package plan), with its root file
// system (package rootfs), and waits. Start lets it execute
// the container's command. Set-up errors and a command that does not exist come
// from Create; an execve that fails comes from Start.
//
// # What the program must do
//
// The program that uses this package, the agent, is also the stage. Its main
// package needs both of these, and main calls stage.Main of package stage before anything else:
//
//	func init() { runtime.LockOSThread() }
//
//	func main() {
//		stage.Main()
//		…
//	}
//
// Locking the main goroutine to the main thread in init keeps every other
// goroutine off that thread. The stage needs it, since namespaces and
// credentials belong to the thread that executes the command; and in the agent
// /proc/self shows the main thread, which must never be one that visits another
// namespace.
//
// Its /proc must be mounted, its root must be one that pivot_root(2) takes
// (not the initramfs itself) and should be read-only, on the superblock, not
// only on the mount: containers with CAP_SYS_ADMIN have the initramfs at the
// bottom of their mount namespace. A [reaper.Reaper] must run, and nothing else
// may wait for children.
//
// # What it is not
//
// It keeps no table of containers and no state on disk; that, streams, storages
// and the network are the agent's. Interfaces to move and resctrl are refused,
// not ignored. AppArmor and SELinux labels have no effect in the guest.
//
// # User namespaces
//
// A stage in a user namespace has no rights outside of it. What takes such
// rights is done by the runtime: it looks up what is bind-mounted, makes the
// device nodes and the file systems that show namespaces of the pod, and hands
// all of it to the stage as mounts that are attached nowhere (package rootfs);
// it sets limits, priorities and kernel parameters from outside. Go has no way to
// start a process in a user or time namespace that exists: see package nsexec.
//
// A container that joins a mount namespace has the root and the mounts of that
// namespace, and none of the plan's.
//
// # Concurrency
//
// All methods may be called concurrently. Containers share nothing, and no lock
// is held while something blocks. A context that ends while a stage works kills
// it.
package container
