// Package agentvm boots virtual machines with the real agent, for tests of what
// only the whole of it shows: its memory, its bounds, whether a request can
// bring it down. The machine is that of a pod, with the guest's kernel and
// bin/kata-agent (make guest builds both), and calls go over vsock; instead of a
// share there is a root file system with busybox in the image.
//
// Boot returns when the agent listens. The machine ends with the test; one that
// has ended before, by a panic of the agent, fails it with the console's last
// lines.
package agentvm
