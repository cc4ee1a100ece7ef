// Command mkdir makes a directory and prints the error number. It is built for
// 386, to make system calls of that architecture.
package main

import (
	"errors"
	"fmt"
	"os"
	"syscall"
)

func main() {
	var errno syscall.Errno
	errors.As(syscall.Mkdir(os.Args[1], 0o755), &errno)
	fmt.Println(int(errno))
}
