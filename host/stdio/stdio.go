// Package stdio connects the ends of a process's standard streams that
// containerd names (fifos, file:// and binary:// URIs) with the streams that
// lead into the guest.
//
// Life cycle: Open opens containerd's ends and blocks on nobody; Copy starts
// copying; Started tells that the process runs; CloseStdin ends the input; after the process has exited, Drain
// copies what the process wrote before its end, and nothing more; Close
// releases everything at once. A Set that was opened must be closed.
//
// A slow reader slows the process down (back-pressure end to end) and never
// delays the news of its exit, which does not pass through here. The package
// knows neither containers nor the agent.
package stdio

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Config names containerd's ends of a process's streams. An empty name means
// that nobody is there: input ends at once, output is dropped.
type Config struct {
	// Stdin is the path of a fifo.
	Stdin string
	// Stdout and Stderr are paths of fifos or files, or URIs: fifo://path,
	// file://path (appended to), binary://path?key=value (a program that reads
	// both streams as its descriptors 3 and 4, and closes 5 when it is ready).
	Stdout, Stderr string
	// Terminal is set when the process has a terminal. Its output is Stdout then,
	// and Stderr is ignored, whatever it names: clients name fifos that they have
	// not made.
	Terminal bool
	// HoldStdin keeps the input open when its last writer goes away before the
	// process was started, too: see [Set.Started].
	HoldStdin bool
	// ID and Namespace are told to a binary:// program.
	ID, Namespace string
}

// Streams lead to the process. A nil stream is one the process does not have.
type Streams struct{ Stdin, Stdout, Stderr net.Conn }

// Set is the open ends of one process's streams. Its methods may be called
// from several goroutines.
type Set struct {
	stdin          *input
	stdout, stderr *output
	logger         *logger

	copying   sync.WaitGroup
	closeOnce sync.Once
	closeErr  error
}

// Open opens the ends that c names. It waits for no peer; only a binary://
// program is waited for until it says that it is ready, or until ctx ends.
func Open(ctx context.Context, c Config) (_ *Set, err error) {
	s := new(Set)
	defer func() {
		if err != nil {
			_ = s.Close()
		}
	}()
	if s.stdin, err = openInput(c.Stdin, c.HoldStdin || c.Terminal); err != nil {
		return nil, fmt.Errorf("open stdin: %w", err)
	}
	if scheme, _ := split(c.Stdout); scheme == "binary" || scheme == "binary-v2" {
		var out, errs *os.File
		if s.logger, out, errs, err = startLogger(ctx, c); err != nil {
			return nil, fmt.Errorf("start logging program of stdout: %w", err)
		}
		s.stdout, s.stderr = newOutput(out), newOutput(errs)
		return s, nil
	}
	sink, err := openSink(c.Stdout)
	if err != nil {
		return nil, fmt.Errorf("open stdout: %w", err)
	}
	s.stdout = newOutput(sink)
	sink = nil
	if !c.Terminal {
		if sink, err = openSink(c.Stderr); err != nil {
			return nil, fmt.Errorf("open stderr: %w", err)
		}
	}
	s.stderr = newOutput(sink)
	return s, nil
}

// split separates a URI's scheme from the rest; a plain path has none.
func split(name string) (scheme, rest string) {
	if scheme, rest, ok := strings.Cut(name, "://"); ok {
		return scheme, rest
	}
	return "", name
}

// openSink opens the far end of an output. A fifo is opened for reading too, so
// that neither the opening waits for its reader nor a write dies of the
// reader's going; a write then waits for the next reader. The result is nil
// for an empty name.
func openSink(name string) (*os.File, error) {
	scheme, path := split(name)
	switch scheme {
	case "", "fifo":
		if path == "" {
			return nil, nil
		}
		return os.OpenFile(path, unix.O_RDWR|unix.O_APPEND|unix.O_NONBLOCK, 0)
	case "file":
		if !filepath.IsAbs(path) {
			return nil, fmt.Errorf("%s: the path is not absolute", name)
		}
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return nil, err
		}
		return os.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o644)
	default:
		return nil, fmt.Errorf("%s: unknown scheme %q", name, scheme)
	}
}

// Copy starts copying between the ends and the streams, in the background. It
// is called at most once. The streams stay the caller's to close, after Drain
// or Close; until then nobody else may set deadlines on them.
func (s *Set) Copy(streams Streams) {
	if s.stdin.begin(streams.Stdin) {
		s.copying.Go(func() { s.stdin.copyTo(streams.Stdin) })
	}
	for _, o := range []struct {
		end    *output
		stream net.Conn
	}{{s.stdout, streams.Stdout}, {s.stderr, streams.Stderr}} {
		if o.end.begin(o.stream) {
			s.copying.Go(func() { o.end.copyFrom(o.stream) })
		}
	}
}

// Started tells that the process runs, or is about to. From then on CloseStdin
// alone ends its input: a client may close its end, open the fifo again and go on.
// An input whose last writer has gone before is complete, since containerd 1.6's ctr
// does not send CloseIO for it.
func (s *Set) Started() error {
	if err := s.stdin.start(); err != nil {
		return fmt.Errorf("keep stdin open: %w", err)
	}
	return nil
}

// CloseStdin ends the input after what has been written to it so far: the
// process reads that and then end of file. It does not wait for it.
func (s *Set) CloseStdin() error {
	s.stdin.end()
	return nil
}

// Drain returns when stdout and stderr have each carried at least as many
// bytes as given, counted from the start, or have ended, or the Set is closed;
// their far ends are closed then. It is called after the process has exited,
// with the counts of what the process wrote: another process that still holds
// the stream neither delays Drain nor is heard any more. The counts are the guest's
// word: no more than MaxUnderWay is waited for, and for that no longer than it can
// take, not counting the time that its reader takes.
func (s *Set) Drain(stdoutBytes, stderrBytes uint64) {
	s.stdout.drainTo(stdoutBytes)
	s.stderr.drainTo(stderrBytes)
	<-s.stdout.done
	<-s.stderr.done
}

// Copied returns how many bytes of output have been copied so far. A reader
// that is slow moves it; one that is stuck does not.
func (s *Set) Copied() uint64 { return s.stdout.total() + s.stderr.total() }

// Close ends all copying at once, whatever is not copied yet is lost, closes
// containerd's ends and ends a binary:// program, for which it may wait up to
// loggerGrace. It is idempotent.
func (s *Set) Close() error {
	s.closeOnce.Do(func() {
		s.stdin.close()
		s.stdout.close()
		s.stderr.close()
		s.copying.Wait()
		if s.logger != nil {
			s.closeErr = s.logger.stop()
		}
	})
	return s.closeErr
}

// past is a deadline that has passed: it wakes whoever waits for input or
// output, now and later.
var past = time.Unix(1, 0)

func isDeadline(err error) bool { return errors.Is(err, os.ErrDeadlineExceeded) }
