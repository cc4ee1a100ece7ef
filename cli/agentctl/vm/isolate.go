package vm

import (
	"fmt"
	"os"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// isolated marks, in the environment, a process that Isolate has begun anew.
const isolated = "KATA_AGENT_CTL_ISOLATED"

// Isolate puts the process into a mount namespace of its own, so that what a
// machine shares is never mounted on the host, and is gone with the process. A
// program of several threads cannot change its namespace; it can start itself
// anew from one that has. So the first call does not return, unless with an
// error, and nothing that matters may have been done before it; in the process
// that follows, with the same arguments and pid, it returns nil.
func Isolate() error {
	if os.Getenv(isolated) != "" {
		if err := os.Unsetenv(isolated); err != nil {
			return err
		}
		// What the host mounts later shows up here too; what we mount stays here.
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
			return fmt.Errorf("detach from the host's mounts: %w", err)
		}
		return nil
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("make a mount namespace (root may): %w", err)
	}
	err := syscall.Exec("/proc/self/exe", os.Args, append(os.Environ(), isolated+"=1"))
	return fmt.Errorf("start anew in a mount namespace: %w", err)
}
