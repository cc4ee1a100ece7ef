// Package boot turns a freshly started kernel into a machine that the agent can
// work on, when the agent is its init: mounts, root, cgroups, the loopback
// device, kernel settings. It also reads the agent's kernel parameters.
//
// It runs once, in steps, because the host waits for the first of them only.
// [Root] makes the initramfs a root that pivot_root(2) can leave, [MountProc]
// gives access to the kernel parameters; with these the agent can listen. [Mount]
// mounts what calls need, [Finish] does what containers need, [ReadonlyRoot] is the
// last before there are any. Nothing is undone: the machine ends with the agent.
package boot
