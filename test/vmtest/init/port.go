package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// openPort opens the virtio-serial port of the given name. The kernel creates
// it when the host has answered on the device's control queue, which may be
// after PID 1 has started: then the uevents tell when to look again.
func openPort(name string) (*os.File, error) {
	events, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, unix.NETLINK_KOBJECT_UEVENT)
	if err != nil {
		return nil, fmt.Errorf("open uevent socket: %w", err)
	}
	defer unix.Close(events)
	if err := unix.Bind(events, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: 1}); err != nil {
		return nil, fmt.Errorf("bind uevent socket: %w", err)
	}
	for {
		device, err := findPort(name)
		if err != nil {
			return nil, err
		}
		if device != "" {
			return os.OpenFile(device, os.O_RDWR, 0)
		}
		var event [4096]byte
		if _, err := unix.Read(events, event[:]); err != nil && err != unix.EINTR && err != unix.ENOBUFS {
			return nil, fmt.Errorf("wait for virtio-serial port %s: %w", name, err)
		}
	}
}

// findPort returns the device of the port, or "" when it is not there yet.
func findPort(name string) (string, error) {
	files, err := filepath.Glob("/sys/class/virtio-ports/*/name")
	if err != nil {
		return "", err
	}
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			return "", err
		}
		if strings.TrimSpace(string(text)) == name {
			return "/dev/" + filepath.Base(filepath.Dir(f)), nil
		}
	}
	return "", nil
}
