// Command guest is /init of the virtual machine in the tests of test/vsock: it
// serves a few ports on plain AF_VSOCK sockets of the guest's kernel, so that
// the device is exercised by the driver it is made for. Port numbers and
// behaviours are listed in main.
package main

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"

	"golang.org/x/sys/unix"

	"kata/api"
)

// Ports that the guest serves, and the host's port that it reports to.
const (
	portEcho    = 100 // returns what it gets
	portSink    = 101 // reads to the end, then returns how many bytes
	portSource  = 102 // reads a number (8 bytes, little endian), returns that many bytes
	portHash    = 103 // reads to the end, then returns the SHA-256
	portDeaf    = 104 // never reads; lives until the peer resets it
	portConnect = 105 // reads a host port and a number, makes that many connections to it, echoes on each
	portReset   = 106 // reads one byte, then closes with data unread
	portOff     = 107 // powers the machine off
	portReady   = api.PortReady
)

const lifetime = 10 * time.Minute

func main() {
	for port, serve := range map[uint32]func(*conn) error{
		portEcho:    echo,
		portSink:    sink,
		portSource:  source,
		portHash:    hash,
		portDeaf:    deaf,
		portConnect: connect,
		portReset:   reset,
		portOff:     func(*conn) error { return unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF) },
	} {
		fd, err := listen(port)
		if err != nil {
			fmt.Println("guest: listen:", err)
			return
		}
		go accept(fd, serve)
	}
	// A machine whose test died must not live on.
	time.AfterFunc(lifetime, func() { _ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF) })

	c, err := dial(portReady)
	if err != nil {
		fmt.Println("guest: report:", err)
	} else {
		c.Close()
	}
	select {}
}

// conn is a blocking vsock socket.
type conn struct{ fd int }

func (c *conn) Read(p []byte) (int, error) {
	for {
		n, err := unix.Read(c.fd, p)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return 0, err
		case n == 0 && len(p) > 0:
			return 0, io.EOF
		}
		return n, nil
	}
}

func (c *conn) Write(p []byte) (n int, err error) {
	for n < len(p) {
		m, err := unix.Write(c.fd, p[n:])
		if err != nil && !errors.Is(err, unix.EINTR) {
			return n, err
		}
		n += max(m, 0)
	}
	return n, nil
}

func (c *conn) Close() error { return unix.Close(c.fd) }

func listen(port uint32) (int, error) {
	fd, err := unix.Socket(unix.AF_VSOCK, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	if err := unix.Bind(fd, &unix.SockaddrVM{CID: unix.VMADDR_CID_ANY, Port: port}); err != nil {
		return -1, err
	}
	return fd, unix.Listen(fd, 128)
}

func accept(fd int, serve func(*conn) error) {
	for {
		nfd, _, err := unix.Accept4(fd, unix.SOCK_CLOEXEC)
		if err != nil {
			fmt.Println("guest: accept:", err)
			return
		}
		go func() {
			c := &conn{nfd}
			if err := serve(c); err != nil {
				fmt.Println("guest:", err)
			}
			c.Close()
		}()
	}
}

func dial(port uint32) (*conn, error) {
	fd, err := unix.Socket(unix.AF_VSOCK, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	if err := unix.Connect(fd, &unix.SockaddrVM{CID: unix.VMADDR_CID_HOST, Port: port}); err != nil {
		unix.Close(fd)
		return nil, err
	}
	return &conn{fd}, nil
}

func echo(c *conn) error {
	_, err := io.CopyBuffer(c, c, make([]byte, 64<<10))
	return err
}

func sink(c *conn) error {
	buf := make([]byte, 256<<10)
	var total uint64
	for {
		n, err := c.Read(buf)
		total += uint64(n)
		if err == io.EOF {
			_, err = c.Write(binary.LittleEndian.AppendUint64(nil, total))
			return err
		}
		if err != nil {
			return err
		}
	}
}

// pattern is the byte at offset i of what source sends.
func pattern(i uint64) byte { return byte(i*7 + i>>8) }

func source(c *conn) error {
	var head [8]byte
	if _, err := io.ReadFull(c, head[:]); err != nil {
		return err
	}
	left := binary.LittleEndian.Uint64(head[:])
	// The pattern repeats after 64 KiB.
	buf := make([]byte, 256<<10)
	for i := range buf {
		buf[i] = pattern(uint64(i) % (64 << 10))
	}
	for left > 0 {
		n, err := c.Write(buf[:min(left, uint64(len(buf)))])
		if err != nil {
			return err
		}
		left -= uint64(n)
	}
	return nil
}

func hash(c *conn) error {
	h := sha256.New()
	if _, err := io.Copy(h, c); err != nil {
		return err
	}
	_, err := c.Write(h.Sum(nil))
	return err
}

func deaf(c *conn) error {
	fds := []unix.PollFd{{Fd: int32(c.fd)}} // hang-up only
	for {
		if n, err := unix.Poll(fds, -1); n > 0 || !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

func connect(c *conn) error {
	var head [16]byte
	if _, err := io.ReadFull(c, head[:]); err != nil {
		return err
	}
	port, count := binary.LittleEndian.Uint64(head[:]), binary.LittleEndian.Uint64(head[8:])
	var made, refused uint64
	for range count {
		p, err := dial(uint32(port))
		if err != nil {
			refused++
			continue
		}
		made++
		go func() {
			defer p.Close()
			if err := echo(p); err != nil {
				fmt.Println("guest: echo:", err)
			}
		}()
	}
	_, err := c.Write(binary.LittleEndian.AppendUint64(binary.LittleEndian.AppendUint64(nil, made), refused))
	return err
}

func reset(c *conn) error {
	var b [1]byte
	_, err := c.Read(b[:])
	return err
}
