package iptables

import (
	"errors"
	"os"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Socket options of include/uapi/linux/netfilter_ipv4/ip_tables.h; those of
// ip6_tables.h have the same numbers, but for the revisions (layout).
const (
	optReplace     = 64 // set
	optAddCounters = 65 // set
	optInfo        = 64 // get
	optEntries     = 65 // get
)

// Sizes of the structures that the options take.
const (
	infoSize    = 84
	entriesSize = 40 // without the entries
	replaceSize = 96 // without the entries
	addSize     = 40 // struct xt_counters_info without the counters
)

// socket is a raw socket, over which the kernel's tables are reached.
type socket struct {
	fd int
	*layout
}

//go:noinline
func openSocket(f Family) (*socket, error) {
	l := f.layout()
	fd, err := unix.Socket(l.domain, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	return &socket{fd, l}, nil
}

func (s *socket) close() { _ = unix.Close(s.fd) }

//go:noinline
func (s *socket) get(option int, buffer []byte) error {
	size := uint32(len(buffer))
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(s.fd), uintptr(s.level), uintptr(option),
		uintptr(unsafe.Pointer(&buffer[0])), uintptr(unsafe.Pointer(&size)), 0)
	if errno != 0 {
		return errno
	}
	return nil
}

//go:noinline
func (s *socket) set(option int, buffer []byte) error {
	_, _, errno := unix.Syscall6(unix.SYS_SETSOCKOPT, uintptr(s.fd), uintptr(s.level), uintptr(option),
		uintptr(unsafe.Pointer(&buffer[0])), uintptr(len(buffer)), 0)
	if errno != 0 {
		return errno
	}
	return nil
}

// has says whether the kernel has a match or target in a revision.
func (s *socket) has(target bool, name string, revision uint8) bool {
	var b [extNameLen + 1]byte
	copy(b[:extNameLen-1], name)
	b[extNameLen] = revision
	option := s.revisionMatch
	if target {
		option = s.revisionTo
	}
	return s.get(option, b[:]) == nil
}

// blob is a table in the kernel's form.
type blob struct {
	name       string
	validHooks uint32
	hookEntry  [hooks]uint32 // offsets of the first entries of the built-in chains
	underflow  [hooks]uint32 // offsets of their policies
	number     uint32        // of entries
	entries    []byte
}

// ErrNoTable says that the kernel has no such table, or none at all.
const ErrNoTable = problem("the kernel has no such table")

// attempts bounds how often something is done anew that another process came
// in between.
const attempts = 16

// read returns a table. A table that was not in use before is from then on.
func (s *socket) read(name string) (*blob, error) {
	var err error
	for range attempts {
		var b *blob
		if b, err = s.readOnce(name); !errors.Is(err, unix.EAGAIN) {
			return b, err
		}
	}
	return nil, err
}

func (s *socket) readOnce(name string) (*blob, error) {
	info := make([]byte, infoSize)
	copy(info[:tableNameLen-1], name)
	if err := s.get(optInfo, info); errors.Is(err, unix.ENOENT) {
		return nil, ErrNoTable
	} else if err != nil {
		return nil, os.NewSyscallError("IPT_SO_GET_INFO", err)
	}
	b := &blob{name: name, validHooks: number(info[32:], 4), number: number(info[76:], 4)}
	for i := range hooks {
		b.hookEntry[i] = number(info[36+4*i:], 4)
		b.underflow[i] = number(info[56+4*i:], 4)
	}
	size := number(info[80:], 4)
	buffer := make([]byte, entriesSize+int(size))
	copy(buffer, info[:tableNameLen])
	putNumber(buffer[tableNameLen:], 4, size)
	// EAGAIN: the size is another one now.
	if err := s.get(optEntries, buffer); err != nil {
		return nil, os.NewSyscallError("IPT_SO_GET_ENTRIES", err)
	}
	b.entries = buffer[entriesSize:]
	return b, nil
}

// replace puts a table in the place of one with a number of entries, and
// returns the counters that those had. EAGAIN means that it has another number
// by now.
func (s *socket) replace(b *blob, replaced uint32) (counters []byte, err error) {
	counters = make([]byte, max(1, replaced)*countersSize)
	request := make([]byte, replaceSize, replaceSize+len(b.entries))
	copy(request[:tableNameLen-1], b.name)
	putNumber(request[32:], 4, b.validHooks)
	putNumber(request[36:], 4, b.number)
	putNumber(request[40:], 4, uint32(len(b.entries)))
	for i := range hooks {
		putNumber(request[44+4*i:], 4, b.hookEntry[i])
		putNumber(request[64+4*i:], 4, b.underflow[i])
	}
	putNumber(request[84:], 4, replaced)
	// The kernel writes through this address. The bytes are on the heap, where
	// nothing moves, because their number is not known.
	byteOrder.PutUint64(request[88:], uint64(uintptr(unsafe.Pointer(&counters[0]))))
	request = append(request, b.entries...)
	err = s.set(optReplace, request)
	runtime.KeepAlive(counters)
	return counters[:replaced*countersSize], os.NewSyscallError("IPT_SO_SET_REPLACE", err)
}

// add adds to the counters of all entries of a table.
func (s *socket) add(table string, counters []byte) error {
	request := make([]byte, addSize, addSize+len(counters))
	copy(request[:tableNameLen-1], table)
	putNumber(request[tableNameLen:], 4, uint32(len(counters)/countersSize))
	request = append(request, counters...)
	return os.NewSyscallError("IPT_SO_SET_ADD_COUNTERS", s.set(optAddCounters, request))
}
