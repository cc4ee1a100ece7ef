// Package netlink speaks rtnetlink(7) with the kernel: the messages with which
// links, addresses, routes and neighbours are listed and changed.
//
// A [Conn] is a socket for one caller at a time, opened when it is needed and
// closed after it: the kernel answers within the system call, so that there is
// nothing to wait for and nothing to share.
//
//	conn, err := netlink.Dial()
//	…
//	defer conn.Close()
//	links, err := conn.Dump(netlink.NewRequest(unix.RTM_GETLINK, 0, make([]byte, unix.SizeofIfInfomsg)))
//
// What the attributes mean is the caller's business (package netdev). What
// arrives is checked: no message, however short or wrong, makes the package
// read beyond it.
package netlink
