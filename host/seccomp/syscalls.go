package seccomp

import (
	"slices"
	"strings"
)

//go:generate go run kata/tools/syscalltable -output syscalls_table.go

// syscall is a system call with its number on each abi, which indexes numbers.
type syscall struct {
	name    string
	numbers [3]int16
}

// none stands for a call that an abi lacks.
const none = -1

func lookup(name string) (i int, ok bool) {
	return slices.BinarySearchFunc(syscalls[:], name, func(s syscall, name string) int {
		return strings.Compare(s.name, name)
	})
}

// known says whether any abi has a call of this name.
func known(name string) bool {
	_, ok := lookup(name)
	_, _, multiplexes := multiplexed(name)
	return ok || multiplexes
}

// number returns the number that the kernel reports for a call on an abi.
func number(name string, on abi) (nr uint32, ok bool) {
	i, ok := lookup(name)
	if !ok || syscalls[i].numbers[on] == none {
		return 0, false
	}
	nr = uint32(syscalls[i].numbers[on])
	if on == x32 {
		nr |= x32Bit
	}
	return nr, true
}

// The calls that reach i386 also through a multiplexer, which takes the number
// of the call as its first argument: linux/net.h and linux/ipc.h.
const (
	socketcall = 102
	ipc        = 117
)

// multiplexed returns the multiplexer of i386 through which a call can be
// made and the number the call has there. Most have one of their own, too,
// since Linux 4.3 and 5.1.
func multiplexed(name string) (nr uint32, call uint64, ok bool) {
	sockets := [...]string{1: "socket", "bind", "connect", "listen", "accept", "getsockname", "getpeername",
		"socketpair", "send", "recv", "sendto", "recvfrom", "shutdown", "setsockopt", "getsockopt", "sendmsg",
		"recvmsg", "accept4", "recvmmsg", "sendmmsg"}
	if i := slices.Index(sockets[1:], name); i >= 0 {
		return socketcall, uint64(i + 1), true
	}
	systemV := [...]string{1: "semop", "semget", "semctl", "semtimedop", 11: "msgsnd", "msgrcv", "msgget", "msgctl",
		21: "shmat", "shmdt", "shmget", "shmctl"}
	if i := slices.Index(systemV[1:], name); i >= 0 {
		return ipc, uint64(i + 1), true
	}
	return 0, 0, false
}
