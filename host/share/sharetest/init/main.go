// Command init is PID 1 of the guests in which package share is tested.
package main

import (
	"os"

	"golang.org/x/sys/unix"

	"kata/api"
	"kata/host/share/sharetest"
)

func main() {
	if err := run(); err != nil {
		_, _ = os.Stdout.WriteString("share test guest: " + err.Error() + "\n")
	}
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
}

// run reports as an agent does that listens, and then serves.
func run() error {
	ready, err := connect(api.PortReady)
	if err != nil {
		return err
	}
	if err := ready.Close(); err != nil {
		return err
	}
	conn, err := connect(sharetest.Port)
	if err != nil {
		return err
	}
	defer conn.Close()
	return sharetest.Serve(conn)
}

// connect connects to a port of the host.
func connect(port uint32) (*os.File, error) {
	fd, err := unix.Socket(unix.AF_VSOCK, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	conn := os.NewFile(uintptr(fd), "vsock")
	if err := unix.Connect(fd, &unix.SockaddrVM{CID: unix.VMADDR_CID_HOST, Port: port}); err != nil {
		conn.Close()
		return nil, err
	}
	return conn, nil
}
