package cgroup

import (
	"fmt"
	"testing"

	"kata/api/ocipb"
)

// request is an access to a device as the kernel asks the program about it.
type request struct {
	kind, access uint32
	major, minor uint32
}

// run executes a device program as the kernel does.
func run(code []instruction, r request) (bool, error) {
	var reg [6]uint64
	context := map[int16]uint32{0: r.access<<16 | r.kind, 4: r.major, 8: r.minor}
	for pc := 0; ; pc++ {
		if pc < 0 || pc >= len(code) {
			return false, fmt.Errorf("jump out of the program, to %d of %d", pc, len(code))
		}
		in := code[pc]
		dst, src := in.regs&15, in.regs>>4
		switch in.code {
		case opLoad:
			reg[dst] = uint64(context[in.offset])
		case opMoveReg:
			reg[dst] = uint64(uint32(reg[src]))
		case opMove:
			reg[dst] = uint64(int64(in.value))
		case opAnd:
			reg[dst] = uint64(uint32(reg[dst]) & uint32(in.value))
		case opShift:
			reg[dst] = uint64(uint32(reg[dst]) >> in.value)
		case opJump:
			pc += int(in.offset)
		case opJumpNotEq:
			if uint32(reg[dst]) != uint32(in.value) {
				pc += int(in.offset)
			}
		case opJumpSet:
			if uint32(reg[dst])&uint32(in.value) != 0 {
				pc += int(in.offset)
			}
		case opExit:
			return reg[0] == 1, nil
		default:
			return false, fmt.Errorf("unknown instruction %#x", in.code)
		}
	}
}

// decide is what the program should answer, from its definition: the last rule
// that covers an access decides about it.
func decide(rules []deviceRule, r request) bool {
	for bit := uint32(1); bit <= accessWrite; bit <<= 1 {
		if r.access&bit == 0 {
			continue
		}
		allowed := false
		for _, rule := range rules {
			if (rule.kind == 0 || rule.kind == r.kind) && (rule.major < 0 || uint32(rule.major) == r.major) &&
				(rule.minor < 0 || uint32(rule.minor) == r.minor) && rule.access&bit != 0 {
				allowed = rule.allow
			}
		}
		if !allowed {
			return false
		}
	}
	return true
}

func TestDeviceRules(t *testing.T) {
	denyAll := &ocipb.LinuxDeviceCgroup{Major: -1, Minor: -1, Access: "rwm"}
	for _, tt := range []struct {
		name    string
		rules   []*ocipb.LinuxDeviceCgroup
		request request
		want    bool
	}{
		{"a disk is denied by default", []*ocipb.LinuxDeviceCgroup{denyAll}, request{deviceBlock, accessRead, 254, 0}, false},
		{"null is allowed by default", []*ocipb.LinuxDeviceCgroup{denyAll}, request{deviceChar, accessRead | accessWrite, 1, 3}, true},
		{"making nodes is allowed by default", []*ocipb.LinuxDeviceCgroup{denyAll}, request{deviceBlock, accessMknod, 254, 0}, true},
		{"a terminal is allowed by default", []*ocipb.LinuxDeviceCgroup{denyAll}, request{deviceChar, accessRead | accessWrite, 136, 7}, true},
		{"memory is denied by default", []*ocipb.LinuxDeviceCgroup{denyAll}, request{deviceChar, accessRead, 1, 1}, false},
		{"an allowed disk", []*ocipb.LinuxDeviceCgroup{denyAll, {Allow: true, Type: "b", Major: 254, Minor: 0, Access: "rw"}}, request{deviceBlock, accessRead | accessWrite, 254, 0}, true},
		{"only its number", []*ocipb.LinuxDeviceCgroup{denyAll, {Allow: true, Type: "b", Major: 254, Minor: 0, Access: "rw"}}, request{deviceBlock, accessRead, 254, 16}, false},
		{"only its kind", []*ocipb.LinuxDeviceCgroup{denyAll, {Allow: true, Type: "b", Major: 254, Minor: 0, Access: "rw"}}, request{deviceChar, accessRead, 254, 0}, false},
		{"only the allowed access", []*ocipb.LinuxDeviceCgroup{denyAll, {Allow: true, Type: "b", Major: 254, Minor: 0, Access: "r"}}, request{deviceBlock, accessRead | accessWrite, 254, 0}, false},
		{"two rules add up", []*ocipb.LinuxDeviceCgroup{denyAll, {Allow: true, Type: "b", Major: 254, Minor: 0, Access: "r"}, {Allow: true, Type: "b", Major: 254, Minor: -1, Access: "w"}}, request{deviceBlock, accessRead | accessWrite, 254, 0}, true},
		{"a later rule takes away", []*ocipb.LinuxDeviceCgroup{{Allow: true, Type: "a", Access: "rwm"}, {Type: "b", Major: 254, Minor: -1, Access: "w"}}, request{deviceBlock, accessRead | accessWrite, 254, 0}, false},
		{"and leaves the rest", []*ocipb.LinuxDeviceCgroup{{Allow: true, Type: "a", Access: "rwm"}, {Type: "b", Major: 254, Minor: -1, Access: "w"}}, request{deviceBlock, accessRead, 254, 0}, true},
		{"everything for the privileged", []*ocipb.LinuxDeviceCgroup{denyAll, {Allow: true, Major: -1, Minor: -1, Access: "rwm"}}, request{deviceBlock, accessAll, 254, 0}, true},
		{"no rule at all denies", nil, request{deviceBlock, accessRead, 254, 0}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var rules []deviceRule
			for _, r := range tt.rules {
				rule, err := parseRule(r)
				if err != nil {
					t.Fatal(err)
				}
				rules = append(rules, rule)
			}
			got, err := run(compile(append(rules, defaultDevices[:]...)), tt.request)
			if err != nil || got != tt.want {
				t.Errorf("allowed %v, %v; want %v", got, err, tt.want)
			}
		})
	}
	for _, bad := range []*ocipb.LinuxDeviceCgroup{{Type: "x"}, {Type: "c", Access: "rwx"}} {
		if _, err := parseRule(bad); err == nil {
			t.Errorf("%+v was accepted", bad)
		}
	}
}

// The program agrees with the definition for any rules, and never jumps out of
// itself.
func FuzzDeviceProgram(f *testing.F) {
	f.Add([]byte{1, 1, 1, 3, 7, 0, 0, 1, 2, 7}, uint8(1), uint8(3), uint8(1), uint8(3))
	f.Fuzz(func(t *testing.T, data []byte, kind, access, major, minor uint8) {
		var rules []deviceRule
		for ; len(data) >= 5 && len(rules) < 20; data = data[5:] {
			rules = append(rules, deviceRule{
				allow: data[0]&1 == 1, kind: uint32(data[1] % 3), access: uint32(data[4] & accessAll),
				major: int64(data[2]%4) - 1, minor: int64(data[3]%4) - 1,
			})
		}
		for i := range rules {
			if rules[i].kind == 0 { // as parseRule makes them
				rules[i].major, rules[i].minor = -1, -1
			}
		}
		r := request{uint32(kind%2) + 1, uint32(access & accessAll), uint32(major % 4), uint32(minor % 4)}
		got, err := run(compile(rules), r)
		if err != nil {
			t.Fatal(err)
		}
		// Asking for nothing is answered by the first rule met; no caller does.
		if want := decide(rules, r); r.access != 0 && got != want {
			t.Errorf("%+v under %+v: allowed %v, want %v", r, rules, got, want)
		}
	})
}
