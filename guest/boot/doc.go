// Package boot turns a freshly started kernel into a machine that the agent can
// work on, when the agent is its init: mounts, root, cgroups, the loopback
// device, kernel settings. It also reads the agent's kernel parameters.
//
// It runs once, in two parts. [Root] and [Mount] come before anything else: the
// first makes the initramfs a root that pivot_root(2) can leave, the second
// mounts what everything needs. [Finish] follows when the agent is already
// listening, and ends with the root read-only. Nothing is undone: the machine
// ends with the agent.
package boot
