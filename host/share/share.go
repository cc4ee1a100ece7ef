// Package share brings files of the host into the guest by virtio-fs.
//
//   - [Tree] is the exported directory: rootfs and volumes of the pod's
//     containers, bound under it. The guest cannot write to its top; what is
//     bound keeps its own mode.
//   - [Daemon] is the one virtiofsd of the pod that serves the tree to the VMM,
//     in the C or the Rust flavour.
//
// It does not mount images or volumes (its sources are mounted already) and
// knows nothing of the guest but the paths under api.GuestShare.
//
// Life cycle: NewTree, StartDaemon on Tree.Export(), then the VMM attaches to
// the daemon's socket; binds come and go while the guest runs; at the end the
// VMM stops, the daemon ends with its connection, Tree.Close unmounts all.
package share
