//go:build e2e

package e2e

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"hash"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"kata/test/harness"
)

// promptly bounds what must not wait for anything: far above what a busy
// machine needs, far below what the leftover processes in these tests sleep.
const promptly = 30 * time.Second

// input is the writing end of a container's stdin.
type input struct {
	t           *test
	read, write *os.File
}

func newInput(t *test) *input {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close(); w.Close() })
	return &input{t, r, w}
}

func (i *input) say(text string) {
	i.t.Helper()
	if _, err := i.write.WriteString(text); err != nil {
		i.t.Fatal(err)
	}
}

func (i *input) end() {
	i.t.Helper()
	if err := i.write.Close(); err != nil {
		i.t.Fatal(err)
	}
}

// sum counts and hashes what is written to it.
type sum struct {
	hash.Hash
	size int64
}

func newSum() *sum { return &sum{Hash: sha256.New()} }

func (s *sum) Write(p []byte) (int, error) {
	s.size += int64(len(p))
	return s.Hash.Write(p)
}

func (s *sum) String() string { return fmt.Sprintf("%d bytes, sha256 %x", s.size, s.Sum(nil)) }

// repeated returns the test data again and again up to size.
func repeated(size int64) io.Reader {
	readers := make([]io.Reader, 0, size/int64(len(data))+1)
	for n := size; n > 0; n -= int64(len(data)) {
		readers = append(readers, bytes.NewReader(data[:min(n, int64(len(data)))]))
	}
	return io.MultiReader(readers...)
}

func TestTwentyMiBPassThroughStdinAndBack(t *testing.T) {
	both(t, func(t *test) {
		const size = 20 << 20
		want, got := newSum(), newSum()
		c := t.container("cat")
		c.Stdin, c.Stdout = io.TeeReader(repeated(size), want), got
		t.succeed(c)
		if got.String() != want.String() {
			t.Errorf("came back: %s; went in: %s", got, want)
		}
	})
}

func TestStdinEndsWhenTheUsersEnds(t *testing.T) {
	both(t, func(t *test) {
		c := t.sh("echo ready; cat; echo end of input; exit 4")
		input := newInput(t)
		c.Stdin = input.read
		run := node.Begin(t.ctx, c)
		// ctr forgets an end of input that comes before there is a task.
		t.awaitOutput(run.Stdout, "ready")
		input.say("one line\n")
		input.end()
		r := run.Wait()
		t.wantCode(r, 4)
		t.wantOutput(r, "ready\none line\nend of input\n", "")
	})
}

// TestStdinOutlivesItsWriters: a client that goes away closes its end of the fifo,
// and the next one opens it again; neither sends CloseIO.
func TestStdinOutlivesItsWriters(t *testing.T) {
	both(t, func(t *test) {
		c := t.sh("while read word; do echo got $word; done; echo end; sleep 1000")
		t.Cleanup(func() { t.clear(c.ID) })
		if r := node.DetachWithStreams(t.ctx, c); r.Err != nil {
			t.Fatal(r.Failure())
		}
		for _, word := range []string{"one", "two"} {
			input := newInput(t)
			attached := node.BeginAttach(t.ctx, c.ID, input.read)
			input.say(word + "\n")
			t.awaitOutput(attached.Stdout, "got "+word)
			input.end()
			attached.Stop()
			if out := attached.Stdout.String(); strings.Contains(out, "end") {
				t.Errorf("the input ended with its writer: %q", out)
			}
		}
	})
}

func TestStdinThatNobodyReadsHoldsNothingUp(t *testing.T) {
	both(t, func(t *test) {
		c := t.sh("exit 6")
		c.Stdin = repeated(8 << 20)
		r := node.Run(t.ctx, c)
		t.wantCode(r, 6)
	})
}

func Test256MiBOfStdoutArriveComplete(t *testing.T) {
	const size = 256 << 20
	both(t, func(t *test) {
		want, got := newSum(), newSum()
		if _, err := io.Copy(want, io.LimitReader(zeros{}, size)); err != nil {
			t.Fatal(err)
		}
		c := t.sh("exec dd if=/dev/zero bs=1M count=256 2>/dev/null")
		c.Stdout = got
		t.succeed(c)
		if got.String() != want.String() {
			t.Errorf("arrived: %s; written: %s", got, want)
		}
	})
}

// zeros is /dev/zero.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

// Zeros show lost bytes; this shows swapped ones.
func TestStdoutKeepsItsOrder(t *testing.T) {
	both(t, func(t *test) {
		const times = 48
		want, got := newSum(), newSum()
		if _, err := io.Copy(want, repeated(times*int64(len(data)))); err != nil {
			t.Fatal(err)
		}
		c := t.sh(fmt.Sprintf("for i in $(seq %d); do cat /data; done", times))
		c.Image, c.Stdout = withData, got
		t.succeed(c)
		if got.String() != want.String() {
			t.Errorf("arrived: %s; written: %s", got, want)
		}
	})
}

// A reader that dawdles slows the container down; it costs no memory without
// bound and no data. Without runc: ctr 1.6 stops reading when it learns of the
// exit, and runc's shim tells it while the last of the output is in its pipes,
// so one run in several loses it.
func TestASlowReaderOfStdoutLosesNothing(t *testing.T) {
	kata(t, "kata", func(t *test) {
		const times = 16
		want, got := newSum(), newSum()
		if _, err := io.Copy(want, repeated(times*int64(len(data)))); err != nil {
			t.Fatal(err)
		}
		r, w := io.Pipe()
		done := make(chan error, 1)
		go func() {
			// One byte first, and the rest when the writer has long been blocked.
			if _, err := io.CopyN(got, r, 1); err != nil {
				done <- err
				return
			}
			_, err := io.CopyBuffer(struct{ io.Writer }{got}, struct{ io.Reader }{r}, make([]byte, 997))
			done <- err
		}()
		c := t.sh(fmt.Sprintf("for i in $(seq %d); do cat /data; done", times))
		c.Image, c.Stdout = withData, w
		t.succeed(c)
		w.Close()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if got.String() != want.String() {
			t.Errorf("arrived: %s; written: %s", got, want)
		}
	})
}

func TestExitIsReportedThoughAChildHoldsStdout(t *testing.T) {
	both(t, func(t *test) {
		begun := time.Now()
		r := node.Run(t.ctx, t.sh("sleep 1000 & echo started; exit 3"))
		t.wantCode(r, 3)
		t.wantOutput(r, "started\n", "")
		if took := time.Since(begun); took > promptly {
			t.Errorf("the exit was reported after %v", took)
		}
	})
}

func TestExitOfAnExecIsReportedThoughItsChildHoldsStdout(t *testing.T) {
	both(t, func(t *test) {
		id := t.detach(t.sh("exec sleep 1000"))
		begun := time.Now()
		r := node.Exec(t.ctx, id, "e1", "/bin/sh", "-c", "sleep 1000 & echo started; exit 5")
		t.wantCode(r, 5)
		t.wantOutput(r, "started\n", "")
		if took := time.Since(begun); took > promptly {
			t.Errorf("the exit was reported after %v", took)
		}
		t.wantOutput(t.exec(id, "e2", "echo", "alive"), "alive\n", "")
	})
}

func TestOutputWrittenJustBeforeTheExitArrives(t *testing.T) {
	both(t, func(t *test) {
		id := t.detach(t.sh("exec sleep 1000"))
		for i := range 10 {
			r := node.BeginExec(t.ctx, harness.Container{ID: id, Args: []string{"/bin/sh", "-c", "head -c 300000 /dev/zero; echo last words >&2; kill -9 $$"}}, fmt.Sprint("e", i)).Wait()
			t.wantCode(r, 137)
			if len(r.Stdout) != 300000 || r.Stderr != "last words\n" {
				t.Fatalf("exec %d: %d bytes of stdout, want 300000; stderr %q", i, len(r.Stdout), r.Stderr)
			}
		}
	})
}
