package container

import (
	"encoding/binary"
	"testing"

	"golang.org/x/sys/unix"

	"kata/api/ocipb"
)

// denyUname is a filter that fails uname(2) with EDOM.
func denyUname() []byte {
	var program []byte
	add := func(code uint16, jt, jf uint8, k uint32) {
		program = binary.NativeEndian.AppendUint16(program, code)
		program = append(program, jt, jf)
		program = binary.NativeEndian.AppendUint32(program, k)
	}
	add(unix.BPF_LD|unix.BPF_W|unix.BPF_ABS, 0, 0, 0) // seccomp_data.nr
	add(unix.BPF_JMP|unix.BPF_JEQ|unix.BPF_K, 0, 1, unix.SYS_UNAME)
	add(unix.BPF_RET|unix.BPF_K, 0, 0, unix.SECCOMP_RET_ERRNO|uint32(unix.EDOM))
	add(unix.BPF_RET|unix.BPF_K, 0, 0, unix.SECCOMP_RET_ALLOW)
	return program
}

func TestSeccomp(t *testing.T) {
	rt := testRuntime(t)
	const script = "grep -E '^Seccomp:' /proc/self/status | cut -f2; hostname 2>&1"
	for name, nnp := range map[string]bool{"with no_new_privs": true, "without": false} {
		t.Run(name, func(t *testing.T) {
			filter := func(s *ocipb.Spec) {
				s.Process.NoNewPrivileges = nnp
				s.Linux.Seccomp = &ocipb.LinuxSeccomp{Filters: [][]byte{denyUname()}}
			}
			plain := run(t, rt, in(makeRootfs(t), script, nil))
			got := run(t, rt, in(makeRootfs(t), script, filter))
			if got.output == plain.output || got.output[:2] != "2\n" {
				t.Errorf("without a filter %+v, with it %+v", plain, got)
			}
			// An exec has the container's filter.
			c := sleeper(t, rt, filter)
			p := execProcess(script)
			p.NoNewPrivileges = nnp
			again, err := execIn(t, c, p)
			if err != nil || again.output != got.output {
				t.Errorf("exec: %+v, %v; want %+v", again, err, got)
			}
		})
	}
	for name, filter := range map[string][]byte{"empty": {}, "cut short": denyUname()[:12], "without an end": denyUname()[:24]} {
		_, _, err := create(t, rt, in(makeRootfs(t), "true", func(s *ocipb.Spec) {
			s.Linux.Seccomp = &ocipb.LinuxSeccomp{Filters: [][]byte{filter}}
		}))
		if err == nil {
			t.Errorf("a program that is %s was accepted", name)
		}
	}
}
