package container

import (
	"fmt"
	"os"
	"syscall"
)

// hostile is the variable that makes this program, run by a container as its own
// command, look for ways to the agent's binary, which it is.
const hostile = "KATA_TEST_HOSTILE"

// asTheAgentsBinary does that: it opens its file to write, makes its mount
// writable, and at last gives way to a shell that writes by a descriptor, when
// no process of the container is the binary any more.
func asTheAgentsBinary() {
	if f, err := os.OpenFile("/proc/self/exe", os.O_WRONLY, 0); err != nil {
		fmt.Println("agent: open to write:", err.(*os.PathError).Err)
	} else {
		f.Close()
		fmt.Println("agent: it can be written")
	}
	if err := syscall.Mount("", "/proc/self/exe", "", syscall.MS_REMOUNT|syscall.MS_BIND, ""); err != nil {
		fmt.Println("agent: remount:", err)
	}
	const oPath = 0x200000
	fd, err := syscall.Open("/proc/self/exe", oPath, 0)
	if err == nil {
		err = syscall.Dup3(fd, 10, 0)
	}
	if err != nil {
		fmt.Println("agent: keep a descriptor:", err)
	}
	script := "(: >/proc/self/fd/10); echo sh: end"
	fmt.Println("agent: execute:", syscall.Exec("/bin/sh", []string{"sh", "-c", script}, os.Environ()))
}
