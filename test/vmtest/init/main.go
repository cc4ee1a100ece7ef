// Command init is PID 1 of a test VM: it makes the machine look like what a
// test that runs as root expects, runs the one program the job names, passes
// on its output and exit status, and powers the machine off.
package main

import (
	"encoding/json"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"kata/test/vmtest/wire"
)

func main() {
	if os.Getpid() != 1 {
		fmt.Fprintln(os.Stderr, "vmtest init: only runs as PID 1 of a VM")
		os.Exit(2)
	}
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "vmtest init:", err)
	}
	unix.Sync()
	err := unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
	fmt.Fprintln(os.Stderr, "vmtest init: power off:", err)
	select {} // PID 1 must not return
}

// run reports to the host what it can; its error is for the console.
func run() error {
	if err := mountEarly(); err != nil {
		return err
	}
	port, err := openPort(wire.Port)
	if err != nil {
		return err
	}
	defer port.Close()
	status, err := runJob(port)
	if err != nil {
		return wire.Write(port, wire.Fault, []byte(err.Error()))
	}
	return wire.WriteExit(port, status)
}

func runJob(port *os.File) (int, error) {
	text, err := os.ReadFile(wire.JobFile)
	if err != nil {
		return 0, err
	}
	var job wire.Job
	if err := json.Unmarshal(text, &job); err != nil {
		return 0, fmt.Errorf("read job: %w", err)
	}
	if err := setUp(); err != nil {
		return 0, err
	}
	return execute(job, port)
}
