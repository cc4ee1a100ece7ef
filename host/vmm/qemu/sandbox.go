package qemu

import (
	"context"
	"errors"
	"strings"

	"kata/host/process"
	"kata/host/vmm/qemu/qmp"
)

// QEMU's own seccomp filter (qemu(1), -sandbox): it executes nothing, changes no
// user, and sets no scheduling. QEMU 7.2 denies about 30 system calls so, and
// ends with SIGSYS at the first.
const (
	sandboxOff  = "off"
	sandboxMost = "on,obsolete=deny,elevateprivileges=deny,spawn=deny"
	sandboxAll  = sandboxMost + ",resourcecontrol=deny"
)

// sandboxes returns the arguments of -sandbox to try, the strictest first. Builds
// differ: some know no filter, and some set the scheduling of their own threads
// under resourcecontrol=deny. What the operator has set is not weakened.
func sandboxes(configured string) []string {
	if configured != "" {
		return []string{configured}
	}
	return []string{sandboxAll, sandboxMost, sandboxOff}
}

// refusesSandbox reports whether QEMU ended because of its filter, before it had
// a guest: a guest must not be able to get rid of the filter.
func refusesSandbox(cause error, child *process.Child) bool {
	if !errors.Is(cause, qmp.ErrNoGreeting) {
		return false
	}
	ctx, cancel := context.WithTimeout(context.Background(), lingerWait)
	defer cancel()
	if child.Wait(ctx) != nil || child.Err() == nil {
		return false
	}
	end := child.Err().Error()
	return strings.Contains(end, "-sandbox") || strings.Contains(end, "seccomp") || strings.Contains(end, "bad system call")
}
