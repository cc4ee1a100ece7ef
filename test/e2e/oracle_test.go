//go:build e2e

package e2e

import (
	"fmt"
	"runtime"
	"strings"
	"sync"
)

// oracleAttempts is how often runc is asked before its answer counts. Under load it
// loses the end of a short process's output, since containerd's ctr closes the
// streams when it hears of the exit, and runc's shim tells of that while it still
// copies. What it answers once shows that a test expects what is right.
const oracleAttempts = 3

// attempt notes failures instead of reporting them.
type attempt struct {
	mu    sync.Mutex
	said  []string
	fails bool
}

func (a *attempt) fail(text string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.fails = true
	a.said = append(a.said, strings.TrimSpace(text))
}

// answered lets the oracle answer a test until it is right, and reports whether it
// was. If it never is, the last attempt is still to be made, and counts.
func answered(t *test, f func(t *test)) bool {
	for range oracleAttempts - 1 {
		a := &attempt{}
		this := *t
		this.attempt = a
		done := make(chan struct{})
		go func() { // which FailNow ends
			defer close(done)
			f(&this)
		}()
		<-done
		if !a.fails {
			return true
		}
		t.Logf("runc is asked again; it answered: %s", strings.Join(a.said, "; "))
	}
	return false
}

// Error, Errorf, Fatal, Fatalf and FailNow are testing.T's, but for attempts.

func (t *test) Error(args ...any) {
	t.T.Helper()
	if t.attempt == nil {
		t.T.Error(args...)
		return
	}
	t.attempt.fail(fmt.Sprintln(args...))
}

func (t *test) Errorf(format string, args ...any) {
	t.T.Helper()
	t.Error(fmt.Sprintf(format, args...))
}

func (t *test) Fatal(args ...any) {
	t.T.Helper()
	t.Error(args...)
	t.FailNow()
}

func (t *test) Fatalf(format string, args ...any) {
	t.T.Helper()
	t.Fatal(fmt.Sprintf(format, args...))
}

func (t *test) FailNow() {
	if t.attempt == nil {
		t.T.FailNow()
	}
	t.attempt.fail("")
	runtime.Goexit()
}
