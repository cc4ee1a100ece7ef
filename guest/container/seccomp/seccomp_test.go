package seccomp

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// TestMain makes the test program also the process that gets restricted: a
// program once loaded stays.
func TestMain(m *testing.M) {
	if scene := os.Getenv("SECCOMP_TEST"); scene != "" {
		runtime.LockOSThread()
		if err := play(scene); err != nil {
			fmt.Print(err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// sock is a program of struct sock_filter.
func sock(instructions ...unix.SockFilter) []byte {
	var out []byte
	for _, i := range instructions {
		out = binary.NativeEndian.AppendUint16(out, i.Code)
		out = append(out, i.Jt, i.Jf)
		out = binary.NativeEndian.AppendUint32(out, i.K)
	}
	return out
}

// deny is a program that gives one call an action and allows the others.
func deny(nr, action uint32) []byte {
	return sock(
		unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS},
		unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jf: 1, K: nr},
		unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: action},
		unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
	)
}

const (
	errno  = unix.SECCOMP_RET_ERRNO
	strict = errno | uint32(unix.EXDEV)
)

func play(scene string) error {
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	switch scene {
	case "order":
		// The kernel takes the strictest verdict; of two equally strict ones
		// that of the program that was loaded last.
		if _, err := Load([][]byte{deny(unix.SYS_GETPPID, errno|1), deny(unix.SYS_GETPPID, strict)}, unix.SECCOMP_FILTER_FLAG_LOG); err != nil {
			return err
		}
		_, _, got := unix.RawSyscall(unix.SYS_GETPPID, 0, 0, 0)
		return fmt.Errorf("getppid: %w", got)
	case "nonsense":
		_, err := Load([][]byte{make([]byte, 8)}, 0)
		return err
	case "unwritten":
		_, err := Load([][]byte{sock(unix.SockFilter{Code: unix.BPF_LD | unix.BPF_MEM}, unix.SockFilter{Code: unix.BPF_RET | unix.BPF_A})}, 0)
		return err
	case "agree":
		return agree()
	case "listener":
		fd, err := Load([][]byte{deny(unix.SYS_GETPPID, unix.SECCOMP_RET_USER_NOTIF)}, unix.SECCOMP_FILTER_FLAG_NEW_LISTENER)
		if err != nil {
			return err
		}
		flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
		if err != nil || flags&unix.FD_CLOEXEC == 0 {
			return fmt.Errorf("descriptor %d: flags %d, %v", fd, flags, err)
		}
		if err := unix.Close(fd); err != nil {
			return err
		}
		_, _, got := unix.RawSyscall(unix.SYS_GETPPID, 0, 0, 0) // nobody listens any more
		return fmt.Errorf("getppid: %w", got)
	case "none":
		fd, err := Load(nil, 0)
		if fd != -1 {
			err = errors.New("a listener out of nothing")
		}
		return err
	}
	return fmt.Errorf("no scene %q", scene)
}

// agree puts every kind of instruction before the kernel, behind a return, so
// that programs change nothing, and compares its verdict with check's.
func agree() error {
	allow := unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW}
	write := unix.SockFilter{Code: unix.BPF_ST} // to the memory that a load may read
	possible := 0
	for code := range uint16(1 << 9) {
		for _, k := range []uint32{0, 1, 2, 3, 4, 15, 16, 31, 32, 60, 61, 62, 64, 1 << 31} {
			for _, jump := range []uint8{0, 1, 2, 255} {
				program := sock(allow, write, unix.SockFilter{Code: code, Jt: jump, Jf: 0, K: k}, allow, allow)
				ours := check(program)
				prog := unix.SockFprog{Len: uint16(len(program) / instruction), Filter: (*unix.SockFilter)(unsafe.Pointer(&program[0]))}
				_, _, theirs := unix.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, 0, uintptr(unsafe.Pointer(&prog)))
				if theirs == unix.ENOMEM {
					return fmt.Errorf("after %d programs: %w", possible, theirs) // as many as a thread may have
				}
				unwritten := code&^1 == unix.BPF_LD|unix.BPF_MEM && k > 0
				if (ours == nil) != (theirs == 0) && !unwritten {
					return fmt.Errorf("code %#x, %d, %d: %v, and the kernel: %v", code, jump, k, ours, theirs)
				}
				if theirs == 0 {
					possible++
				}
			}
		}
	}
	if possible < 100 {
		return fmt.Errorf("only %d programs were possible", possible)
	}
	return nil
}

func TestLoad(t *testing.T) {
	for _, test := range []struct{ is, scene, want string }{
		{"programs are loaded in their order", "order", "getppid: invalid cross-device link"},
		{"what is no program is not loaded", "nonsense", "seccomp filter 0: instruction 0, the last, is no return"},
		{"what reads memory that was not written is refused by the kernel", "unwritten", "load seccomp filter 0 of 2 instructions: invalid argument"},
		{"the kernel finds the same programs possible", "agree", ""},
		{"a listener is returned, close-on-exec", "listener", "getppid: function not implemented"},
		{"no program restricts nothing", "none", ""},
	} {
		t.Run(test.is, func(t *testing.T) {
			cmd := exec.Command("/proc/self/exe")
			cmd.Env = append(os.Environ(), "SECCOMP_TEST="+test.scene)
			out, err := cmd.Output()
			if string(out) != test.want || (err == nil) != (test.want == "") {
				t.Errorf("%q, %v; want %q", out, err, test.want)
			}
		})
	}
}

func TestCheck(t *testing.T) {
	fine := deny(1, errno)
	long := bytes.Repeat(fine[24:], unix.BPF_MAXINSNS)
	const listener, wait = unix.SECCOMP_FILTER_FLAG_NEW_LISTENER, unix.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV
	for _, test := range []struct {
		is      string
		filters [][]byte
		flags   uint32
		want    string // "" when in order
	}{
		{"no program", nil, 0, ""},
		{"several programs", [][]byte{fine, fine}, unix.SECCOMP_FILTER_FLAG_LOG | unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW, ""},
		{"the longest program", [][]byte{long}, 0, ""},
		{"a program that is cut off", [][]byte{fine, fine[:24]}, 0, "seccomp filter 1: instruction 1 (code 0x15, 0, 1, 0x1) is not possible"},
		{"a jump behind the end", [][]byte{sock(unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JA, K: 7}, unix.SockFilter{Code: unix.BPF_RET})}, 0,
			"seccomp filter 0: instruction 0 (code 0x5, 0, 0, 0x7) is not possible"},
		{"a longer one", [][]byte{fine, make([]byte, 8*unix.BPF_MAXINSNS+8)}, 0, "seccomp filter 1 has 32776 bytes"},
		{"an empty program", [][]byte{{}}, 0, "seccomp filter 0 has 0 bytes"},
		{"half an instruction", [][]byte{fine[:12]}, 0, "seccomp filter 0 has 12 bytes"},
		{"a listener that may wait", [][]byte{fine}, listener | wait, ""},
		{"waiting without a listener", [][]byte{fine}, wait, "waiting needs a listener"},
		{"a listener for two programs", [][]byte{fine, fine}, listener, "a listener needs one filter, not 2"},
		{"a listener for none", nil, listener, "a listener needs one filter, not 0"},
		{"threads that are not the container's", [][]byte{fine}, unix.SECCOMP_FILTER_FLAG_TSYNC, "flags 0x1 are not supported"},
		{"flags of the future", [][]byte{fine}, 1 << 20, "flags 0x100000 are not supported"},
	} {
		t.Run(test.is, func(t *testing.T) {
			err := Check(test.filters, test.flags)
			if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
				t.Errorf("%v, want %q", err, test.want)
			}
			if err == nil {
				return
			}
			if _, loaded := Load(test.filters, test.flags); loaded == nil || loaded.Error() != err.Error() {
				t.Errorf("Load says %v, Check %v", loaded, err)
			}
		})
	}
}
