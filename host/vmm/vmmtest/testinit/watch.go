package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// watch says what the kernel tells of devices that come and go, in lines of the
// form "test: KIND at PCI-PATH ...", for ever.
func watch() {
	must("mount /sys", os.MkdirAll("/sys", 0o755))
	must("mount /sys", syscall.Mount("sysfs", "/sys", "sysfs", 0, ""))
	must("mount /dev", syscall.Mount("devtmpfs", "/dev", "devtmpfs", 0, ""))
	must("make /mnt", os.MkdirAll("/mnt", 0o755))
	events, err := syscall.Socket(syscall.AF_NETLINK, syscall.SOCK_RAW|syscall.SOCK_CLOEXEC, syscall.NETLINK_KOBJECT_UEVENT)
	must("open uevents", err)
	must("listen to uevents", syscall.Bind(events, &syscall.SockaddrNetlink{Family: syscall.AF_NETLINK, Groups: 1}))
	must("enlarge the buffer", syscall.SetsockoptInt(events, syscall.SOL_SOCKET, syscall.SO_RCVBUFFORCE, 1<<20))
	say("test: watching")
	buffer := make([]byte, 16<<10)
	for {
		n, err := syscall.Read(events, buffer)
		if err == syscall.EINTR {
			continue
		}
		must("read uevent", err)
		fields := map[string]string{}
		for _, field := range strings.Split(string(buffer[:n]), "\x00") {
			if key, value, ok := strings.Cut(field, "="); ok {
				fields[key] = value
			}
		}
		tell(fields)
	}
}

// tell says what an event means.
func tell(event map[string]string) {
	action, sys := event["ACTION"], "/sys"+event["DEVPATH"]
	where := pciPath(event["DEVPATH"])
	switch event["SUBSYSTEM"] + " " + action {
	case "block add", "block change":
		head := make([]byte, 64)
		disk, err := os.Open("/dev/" + event["DEVNAME"])
		if err == nil {
			_, err = disk.Read(head)
			disk.Close()
		}
		text := strings.TrimRight(string(head), "\x00")
		say(fmt.Sprintf("test: disk at %s has %s sectors, reads %q %v", where, content(sys+"/size"), text, err))
	case "net add":
		say(fmt.Sprintf("test: net at %s is %s", where, content(sys+"/address")))
	case "block remove", "net remove":
		say(fmt.Sprintf("test: %s at %s is gone", event["SUBSYSTEM"], where))
	case "cpu add":
		err := os.WriteFile(sys+"/online", []byte("1"), 0)
		say(fmt.Sprintf("test: cpus %s %v", content("/sys/devices/system/cpu/online"), err))
	case "cpu remove":
		say("test: cpus " + content("/sys/devices/system/cpu/online"))
	case "memory add", "memory online", "memory offline", "memory remove":
		blocks, _ := filepath.Glob("/sys/devices/system/memory/memory*")
		say(fmt.Sprintf("test: memory of %d blocks", len(blocks)))
	case "virtio bind":
		if event["DRIVER"] == "virtiofs" {
			share(where)
			return
		}
		say(fmt.Sprintf("test: %s at %s", event["DRIVER"], where))
	}
}

// share reads a file of a share with the tag "plugged".
func share(where string) {
	err := syscall.Mount("plugged", "/mnt", "virtiofs", 0, "")
	say(fmt.Sprintf("test: share at %s reads %q %v", where, content("/mnt/hello"), err))
	_ = syscall.Unmount("/mnt", 0)
}

// pciPath takes the slots out of a path in sysfs: "02", "1e.2/00".
func pciPath(dev string) string {
	var slots []string
	for _, part := range strings.Split(dev, "/") {
		if len(part) != len("0000:00:00.0") || part[4] != ':' || part[7] != ':' {
			continue
		}
		slots = append(slots, strings.TrimSuffix(part[8:], ".0"))
	}
	return strings.Join(slots, "/")
}

func content(path string) string {
	text, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	return strings.TrimSpace(string(text))
}

// tick counts, for ever.
func tick() {
	const pause = 20 * time.Millisecond
	for n := 1; ; n++ {
		say(fmt.Sprintf("tick %d.", n))
		nap := syscall.NsecToTimespec(int64(pause))
		_ = syscall.Nanosleep(&nap, nil)
	}
}
