// Command init is PID 1 of the guests in which package share is tested.
package main

import (
	"os"

	"golang.org/x/sys/unix"

	"kata/host/share/sharetest"
)

func main() {
	if err := run(); err != nil {
		_, _ = os.Stdout.WriteString("share test guest: " + err.Error() + "\n")
	}
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
}

func run() error {
	fd, err := unix.Socket(unix.AF_VSOCK, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	conn := os.NewFile(uintptr(fd), "vsock")
	defer conn.Close()
	if err := unix.Connect(fd, &unix.SockaddrVM{CID: unix.VMADDR_CID_HOST, Port: sharetest.Port}); err != nil {
		return err
	}
	return sharetest.Serve(conn)
}
