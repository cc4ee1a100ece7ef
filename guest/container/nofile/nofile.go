// Package nofile knows the limit of open files that the program was started
// with. Package os raises the soft limit for the program itself and puts it
// back in what it executes, but tells nobody what it was.
//
// The package imports nothing but syscall, so that it is initialized before
// package os: packages that are ready are initialized in the order of their
// paths (Go 1.21).
package nofile

import "syscall"

var original = get()

func get() (limit syscall.Rlimit) {
	_ = syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit) // fails for no valid arguments
	return limit
}

// Original returns the limit.
func Original() syscall.Rlimit { return original }
