// Package thread spends threads: for system calls that change a thread for good, such
// as setns(2) into a mount namespace, unshare(2) of CLONE_FS or chdir(2) after that.
package thread

import (
	"runtime"

	"golang.org/x/sys/unix"
)

// Spend runs f on a thread that ends with it, and returns when f has. It is never the
// process's first thread, which cannot end: Go parks that one as it is, and what
// /proc/self shows, its namespaces and its working directory, are the first thread's.
func Spend(f func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			Spend(f) // on another one, since this one is ours meanwhile
			runtime.UnlockOSThread()
			return
		}
		f() // never unlocked: the thread ends with the goroutine
	}()
	<-done
}
