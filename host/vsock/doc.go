// Package vsock connects the host side of a pod to its guest: a virtio-vsock
// device that lives in this process, behind vhost-user, and a dialer for VMMs
// that bring their own (hybrid vsock). Streams are ordinary [net.Conn]s. No
// host kernel module is involved and no other process of the host can reach
// the guest.
//
// # Life cycle
//
//	dev, err := vsock.New(vsock.Config{Socket: "/run/kata/x/vsock.sock", GuestCID: 3, Log: log})
//	ready, err := dev.Listen(1028)        // the guest connects here
//	go func() { done <- dev.Run(ctx) }()  // start the VMM on the socket now
//	conn, err := dev.Dial(ctx, 1024)      // waits for the guest's driver
//	...
//	dev.Close()                           // everything fails, the socket is gone
//
// When Run returns, whatever the reason, the device is dead: connections and
// listeners fail, and so does Dial, at once. A device serves one VM once.
//
// # Flow control and bounds
//
// Data is copied straight into the guest's receive buffers by the goroutine
// that writes, never more than the guest has granted. What the guest sends is
// held in one bounded buffer a connection, whose size the guest is told; a
// guest that sends more is disconnected. Connections, connections not yet
// accepted, replies not yet delivered and all receive buffers together are
// bounded, so that a hostile guest can cost this process a known amount of
// memory and no more.
//
// # Locks
//
// In this order, each optional: the transmit queue (inside its Do), Device.mu,
// Conn.mu, receiver.mu, the receive queue. Device.mu is never held together
// with Conn.mu.
//
// # What it is not
//
// No SOCK_SEQPACKET and no datagrams; no routing between guests: the only
// peers are the guest and CID 2.
package vsock
