package taskpid

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Descriptors of the program, given to it in this order.
const (
	statusFD  = 3 // the writing end of a pipe
	programFD = 4 // the program itself
	placeFD   = 5 // the root: a detached mount; or a pidfd of the process to join
	netnsFD   = 6 // the network namespace to join, if any
)

// call is a system call of the program's table.
type call struct {
	nr   uint64
	args [5]uint64
	then then
}

// then says how the program goes on after a system call.
type then uint64

const (
	// mandatory: an error ends the program, which writes the number of the
	// call and its result to statusFD.
	mandatory then = iota
	_
	// untilError repeats the call with its second argument counted up, and goes
	// on at the first error.
	untilError
	// forever repeats the call.
	forever
)

// interpreter is testdata/interpreter.s assembled. It sets the process's name to
// its first argument (prctl(2), PR_SET_NAME) and makes the calls of the table that
// follows it.
const interpreter = "" +
	"\x48\x8b\x74\x24\x08" + // mov rsi, [rsp+8]: argv[0]
	"\xbf\x0f\x00\x00\x00" + // mov edi, PR_SET_NAME
	"\xb8\x9d\x00\x00\x00" + // mov eax, prctl
	"\x0f\x05" + // syscall
	"\x48\x8d\x1d\x68\x00\x00\x00" + // lea rbx, table
	"\x45\x31\xe4" + // first: xor r12d, r12d
	"\x48\x8b\x03" + // again: mov rax, [rbx]
	"\x48\x8b\x7b\x08" + // mov rdi, [rbx+8]
	"\x48\x8b\x73\x10" + // mov rsi, [rbx+16]
	"\x4c\x01\xe6" + // add rsi, r12
	"\x48\x8b\x53\x18" + // mov rdx, [rbx+24]
	"\x4c\x8b\x53\x20" + // mov r10, [rbx+32]
	"\x4c\x8b\x43\x28" + // mov r8, [rbx+40]
	"\x0f\x05" + // syscall
	"\x8b\x4b\x30" + // mov ecx, [rbx+48]
	"\x83\xf9\x03\x74\xdc" + // forever: je again
	"\x48\x85\xc0\x78\x0a" + // an error: js failed
	"\x83\xf9\x02\x75\x2c" + // not untilError: jne next
	"\x49\xff\xc4\xeb\xcd" + // inc r12; jmp again
	"\x85\xc9\x75\x23" + // failed: not mandatory: jnz next
	"\x50\xff\x33" + // push rax; push [rbx]
	"\xbf\x03\x00\x00\x00" + // mov edi, statusFD
	"\x48\x89\xe6" + // mov rsi, rsp
	"\xba\x10\x00\x00\x00" + // mov edx, 16
	"\xb8\x01\x00\x00\x00\x0f\x05" + // write
	"\xbf\x01\x00\x00\x00" + // mov edi, 1
	"\xb8\xe7\x00\x00\x00\x0f\x05" + // exit_group
	"\x48\x83\xc3\x38\xeb\x9d" + // next: add rbx, 56; jmp first
	"\xcc\xcc\xcc\xcc\xcc"

// place says where the program goes before it gives up its privileges.
type place int

const (
	ownRoot  place = iota // placeFD becomes its root
	joinPeer              // into the namespaces of the process placeFD
)

// calls is what the program does. Strings and structures are given by their
// offset behind the table.
func calls(where place, netns bool, data *layout) []call {
	text := func(s string) uint64 { return data.put(append([]byte(s), 0)) }
	var c []call
	add := func(then then, nr uint64, args ...uint64) {
		step := call{nr: nr, then: then}
		copy(step.args[:], args)
		c = append(c, step)
	}
	if netns {
		add(mandatory, unix.SYS_SETNS, netnsFD, unix.CLONE_NEWNET)
	}
	switch where {
	case joinPeer:
		add(mandatory, unix.SYS_SETNS, placeFD, unix.CLONE_NEWNS|unix.CLONE_NEWNET)
	case ownRoot:
		// In the mount namespace that clone(2) has made for it: nothing of what
		// follows reaches another, and afterwards the root is all there is.
		add(mandatory, unix.SYS_MOUNT, 0, text("/"), 0, unix.MS_REC|unix.MS_PRIVATE)
		cwd := uint64(0xffffffffffffff9c) // AT_FDCWD
		add(mandatory, unix.SYS_MOVE_MOUNT, placeFD, text(""), cwd, text("/"), unix.MOVE_MOUNT_F_EMPTY_PATH)
		add(mandatory, unix.SYS_FCHDIR, placeFD)
		// pivot_root(2) explains "pivot_root(".", ".")".
		add(mandatory, unix.SYS_PIVOT_ROOT, text("."), text("."))
		add(mandatory, unix.SYS_UMOUNT2, text("."), unix.MNT_DETACH)
	}
	all := ^uint64(0)
	signals := data.put(binary.LittleEndian.AppendUint64(nil, all))
	add(mandatory, unix.SYS_RT_SIGPROCMASK, 0 /* SIG_BLOCK */, signals, 0, 8)
	add(untilError, unix.SYS_PRCTL, unix.PR_CAPBSET_DROP, 0)
	header := binary.LittleEndian.AppendUint64(nil, unix.LINUX_CAPABILITY_VERSION_3) // and pid 0: itself
	add(mandatory, unix.SYS_CAPSET, data.put(header), data.put(make([]byte, 2*unsafe.Sizeof(unix.CapUserData{}))))
	add(mandatory, unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1)
	add(mandatory, unix.SYS_PRCTL, unix.PR_SET_DUMPABLE, 0)
	// The end of the status pipe is how the parent learns that all went well;
	// close_range(2) does not fail, and a kernel without seccomp filters is not
	// one that we run on.
	add(mandatory, unix.SYS_CLOSE_RANGE, 0, 0xffffffff)
	add(mandatory, unix.SYS_SECCOMP, 1 /* SECCOMP_SET_MODE_FILTER */, 0, data.filter(seccompFilter()))
	add(forever, unix.SYS_PAUSE)
	return c
}

// seccompFilter lets pause(2) and exit(2) through and kills the process for any
// other call.
func seccompFilter() []unix.SockFilter {
	const (
		load        = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS
		jumpIfEqual = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
		answer      = unix.BPF_RET | unix.BPF_K
		allow, kill = 0x7fff0000, 0x80000000 // SECCOMP_RET_ALLOW, SECCOMP_RET_KILL_PROCESS
	)
	return []unix.SockFilter{
		{Code: load, K: 4}, // seccomp_data.arch
		{Code: jumpIfEqual, K: unix.AUDIT_ARCH_X86_64, Jf: 4},
		{Code: load, K: 0}, // seccomp_data.nr
		{Code: jumpIfEqual, K: unix.SYS_PAUSE, Jt: 3},
		{Code: jumpIfEqual, K: unix.SYS_EXIT, Jt: 2},
		{Code: jumpIfEqual, K: unix.SYS_EXIT_GROUP, Jt: 1},
		{Code: answer, K: kill},
		{Code: answer, K: allow},
	}
}

// layout collects what the table points to, by address.
type layout struct {
	base uint64 // address of the first byte
	data []byte
}

func (l *layout) put(b []byte) uint64 {
	for len(l.data)%8 != 0 {
		l.data = append(l.data, 0)
	}
	address := l.base + uint64(len(l.data))
	l.data = append(l.data, b...)
	return address
}

// filter puts a struct sock_fprog.
func (l *layout) filter(rules []unix.SockFilter) uint64 {
	var b []byte
	for _, r := range rules {
		b = binary.LittleEndian.AppendUint16(b, r.Code)
		b = append(b, r.Jt, r.Jf)
		b = binary.LittleEndian.AppendUint32(b, r.K)
	}
	program := binary.LittleEndian.AppendUint64(nil, uint64(len(rules)))
	return l.put(binary.LittleEndian.AppendUint64(program, l.put(b)))
}

const (
	loadAddress = 0x400000
	headers     = 64 + 2*56 // sizes of an ELF header and two program headers, elf(5)
	entrySize   = 56
)

// image builds the ELF file: headers, code, table, data, in one segment that can
// be read and executed.
func image(where place, netns bool) []byte {
	count := len(calls(where, netns, &layout{}))
	data := &layout{base: loadAddress + headers + uint64(len(interpreter)) + uint64(count)*entrySize}
	body := []byte(interpreter)
	for _, c := range calls(where, netns, data) {
		body = binary.LittleEndian.AppendUint64(body, c.nr)
		for _, a := range c.args {
			body = binary.LittleEndian.AppendUint64(body, a)
		}
		body = binary.LittleEndian.AppendUint64(body, uint64(c.then))
	}
	body = append(body, data.data...)
	var b bytes.Buffer
	write := func(fields ...any) {
		for _, f := range fields {
			_ = binary.Write(&b, binary.LittleEndian, f) // to memory
		}
	}
	const (
		executable, machine  = uint16(2), uint16(62) // ET_EXEC, EM_X86_64
		segment, stack       = uint32(1), uint32(0x6474e551)
		exec, write_, access = uint32(1), uint32(2), uint32(4)
	)
	write([]byte("\x7fELF\x02\x01\x01"), make([]byte, 9), executable, machine, uint32(1),
		uint64(loadAddress+headers), uint64(64), uint64(0), uint32(0), uint16(64), uint16(56), uint16(2), [3]uint16{})
	size := uint64(headers + len(body))
	write(segment, access|exec, uint64(0), uint64(loadAddress), uint64(loadAddress), size, size, uint64(4096))
	write(stack, access|write_, [6]uint64{})
	b.Write(body)
	return b.Bytes()
}

// memoryFile returns an executable file of the content that nobody can change.
func memoryFile(content []byte) (*os.File, error) {
	const flags = unix.MFD_CLOEXEC | unix.MFD_ALLOW_SEALING
	fd, err := unix.MemfdCreate("kata", flags|unix.MFD_EXEC)
	if errors.Is(err, unix.EINVAL) { // before Linux 6.3
		fd, err = unix.MemfdCreate("kata", flags)
	}
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	f := os.NewFile(uintptr(fd), "kata")
	if _, err := f.Write(content); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	const seals = unix.F_SEAL_SEAL | unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_WRITE
	if _, err := unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, seals); err != nil {
		return nil, errors.Join(fmt.Errorf("seal the program: %w", err), f.Close())
	}
	return f, nil
}

// failure reads what the program wrote to statusFD before it gave up; nothing
// means that it did not.
func failure(status []byte) error {
	if len(status) == 0 {
		return nil
	}
	if len(status) != 16 {
		return fmt.Errorf("it told %d bytes", len(status))
	}
	nr, result := binary.LittleEndian.Uint64(status), int64(binary.LittleEndian.Uint64(status[8:]))
	return os.NewSyscallError(callName(nr), unix.Errno(-result))
}

func callName(nr uint64) string {
	switch nr {
	case unix.SYS_SETNS:
		return "setns"
	case unix.SYS_MOUNT:
		return "mount"
	case unix.SYS_MOVE_MOUNT:
		return "move_mount"
	case unix.SYS_FCHDIR:
		return "fchdir"
	case unix.SYS_PIVOT_ROOT:
		return "pivot_root"
	case unix.SYS_UMOUNT2:
		return "umount2"
	case unix.SYS_CAPSET:
		return "capset"
	case unix.SYS_PRCTL:
		return "prctl"
	case unix.SYS_CLOSE_RANGE:
		return "close_range"
	}
	return fmt.Sprintf("system call %d", nr)
}
