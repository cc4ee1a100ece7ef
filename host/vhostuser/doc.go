// Package vhostuser is the back-end side of the vhost-user protocol: it lets a
// virtio device live in this process while the virtual machine runs in
// another, the VMM (QEMU, Cloud Hypervisor), which connects over a unix
// socket and hands over its guest's memory and interrupt lines.
//
// # Life cycle
//
// [Listen] makes the socket, [Listener.Accept] takes exactly one VMM, and
// [Serve] answers that VMM until it goes, the context ends, or somebody
// misbehaves:
//
//	l, err := vhostuser.Listen("/run/kata/x/vsock.sock")
//	conn, err := l.Accept(ctx)           // the socket listens no more
//	err = vhostuser.Serve(ctx, conn, dev, log)
//
// A device implements [Device]. It is given its queues once, by Attach, and is
// told when each of them starts, stops and has buffers. It touches guest
// memory only inside [Queue.Do], which holds the queue and a consistent
// picture of guest memory for as long as the function runs:
//
//	err := q.Do(func(b *vhostuser.Batch) error {
//		for {
//			c, err := b.Next() // checked; nil when the driver offers no more
//			if c == nil || err != nil {
//				return err
//			}
//			n, err := c.Read(request)
//			...
//			b.Done(c, written)
//		}
//	})
//
// # Trust
//
// Neither the guest nor the VMM is trusted. Every descriptor is copied once
// and then checked, every address is checked against the memory table in
// force, no slice of guest memory leaves the package, and what breaks the
// rules ends the session with an error that wraps [ErrDriver] or
// [ErrFrontend]. There is no recovery: a device whose driver lies is dead
// until the VM is.
//
// # What it is not
//
// No packed rings, no dirty logging (devices are not migratable), no in-flight
// descriptors, no back-end channel. VHOST_USER_PROTOCOL_F_STATUS is not
// offered on purpose: QEMU 8.1 and later write status 0 when a VM is merely
// paused, which cannot be told from a reset.
//
// The protocol is specified in QEMU's docs/interop/vhost-user.rst, the rings
// in the virtio 1.2 specification, section 2.7.
package vhostuser
