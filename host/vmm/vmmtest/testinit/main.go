// Command testinit is PID 1 of the guests that VMM tests boot. It says
// vmmtest.Ready on the console and does what the kernel parameter test.do
// names: poweroff, reboot, panic, spin, tick (it counts on the console), watch (it
// says which devices come and go), or stay (the default).
package main

import (
	"math"
	"os"
	"runtime"
	"strings"
	"syscall"
)

func main() {
	must("mkdir /proc", os.MkdirAll("/proc", 0o755))
	must("mount /proc", syscall.Mount("proc", "/proc", "proc", 0, ""))
	line, err := os.ReadFile("/proc/cmdline")
	must("read command line", err)
	say("test guest is up; command line: " + strings.TrimSpace(string(line)))
	switch parameter(string(line), "test.do") {
	case "poweroff":
		must("power off", syscall.Reboot(syscall.LINUX_REBOOT_CMD_POWER_OFF))
	case "reboot":
		must("reboot", syscall.Reboot(syscall.LINUX_REBOOT_CMD_RESTART))
	case "panic":
		os.Exit(7) // the kernel panics when init exits
	case "watch":
		watch()
	case "tick":
		tick()
	case "spin":
		for spins := uint64(0); spins < math.MaxUint64; spins++ { // burns its CPU
			runtime.KeepAlive(spins)
		}
	}
	for {
		_ = syscall.Pause() // select{} would be a deadlock to the runtime
	}
}

// parameter returns the value of a kernel parameter, "" when absent.
func parameter(line, name string) string {
	for _, word := range strings.Fields(line) {
		if value, ok := strings.CutPrefix(word, name+"="); ok {
			return value
		}
	}
	return ""
}

func say(text string) { _, _ = os.Stdout.WriteString(text + "\n") }

func must(what string, err error) {
	if err != nil {
		say("testinit: " + what + ": " + err.Error())
		os.Exit(1)
	}
}
