package shim

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"kata/host/shim/bootstrap"
	"kata/host/untrusted"
)

// logFile is the fifo in the bundle whose other end containerd copies to its
// own log.
const logFile = "log"

// logger writes to containerd's log.
type logger struct {
	*slog.Logger
	level *slog.LevelVar
	out   *logWriter
}

// openLog opens the fifo, and makes it the standard error of this process, for
// the Go runtime's last words. Without a fifo there is no log.
func openLog(name string, inv bootstrap.Invocation) (*logger, error) {
	out, err := openLogWriter(name)
	if err != nil {
		return nil, fmt.Errorf("open the log: %w", err)
	}
	level := new(slog.LevelVar)
	if inv.Debug {
		level.Set(slog.LevelDebug)
	}
	log := slog.New(slog.NewTextHandler(out, &slog.HandlerOptions{Level: level, ReplaceAttr: asLine}))
	// ttRPC logs by logrus, and only what goes wrong.
	logrus.SetOutput(logrusWriter{log.With("sandbox", inv.ID)})
	logrus.SetFormatter(new(logrus.TextFormatter))
	return &logger{Logger: log, level: level, out: out}, nil
}

// asLine makes texts and errors fit for a line of a log, whoever they are from: one
// line, without control characters, bounded.
func asLine(_ []string, a slog.Attr) slog.Attr {
	switch v := a.Value.Any().(type) {
	case string:
		a.Value = slog.StringValue(untrusted.Line(v, untrusted.MaxLine))
	case error:
		a.Value = slog.StringValue(untrusted.Line(v.Error(), untrusted.MaxLine))
	}
	return a
}

// debug lets everything be logged from now on.
func (l *logger) debug() { l.level.Set(slog.LevelDebug) }

// Close closes the fifo; what is logged afterwards is lost.
func (l *logger) Close() error { return l.out.close() }

// logWriter writes whole lines and never waits: when containerd does not read
// and the fifo is full, the line is lost and the shim goes on.
type logWriter struct{ fd int } // -1: nowhere

// openLogWriter opens the fifo for reading as well, so that it neither waits
// for a reader nor breaks when containerd restarts.
func openLogWriter(name string) (*logWriter, error) {
	fd, err := unix.Open(name, unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return &logWriter{-1}, nil
	}
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: name, Err: err}
	}
	if err := unix.Dup3(fd, int(os.Stderr.Fd()), 0); err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("make %s the standard error: %w", name, err)
	}
	return &logWriter{fd}, nil
}

func (w *logWriter) Write(line []byte) (int, error) {
	if w.fd >= 0 {
		for {
			_, err := unix.Write(w.fd, line)
			if err != unix.EINTR {
				break
			}
		}
	}
	return len(line), nil
}

func (w *logWriter) close() error {
	if w.fd < 0 {
		return nil
	}
	return unix.Close(w.fd)
}

// logrusWriter passes on what ttRPC logs.
type logrusWriter struct{ log *slog.Logger }

func (w logrusWriter) Write(line []byte) (int, error) {
	w.log.Warn("ttrpc", "line", string(bytes.TrimSpace(line)))
	return len(line), nil
}
