// Package log writes the agent's log: one JSON object a line, in the shape
// upstream's agent uses (msg, level, ts, source, name, pid, version, subsystem,
// then the record's own fields), to the guest's console or to any other writer.
//
// It has the shape of log/slog and is not log/slog: importing that package
// links encoding/json into whatever imports it (measured: 365 KB on a 1.7 MB
// binary), and the agent's size is a promise. It is not a framework either:
// there is one encoder, one writer and one level, shared by every Logger
// derived from the same New.
//
// A Logger is ready when New returns and needs no closing. A nil *Logger
// discards everything, so that packages and tests need not care.
package log

import (
	"io"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"kata/lib/fmt"
)

// Level orders records by importance.
type Level int32

// The levels upstream's agent.log parameter knows, least important first.
const (
	LevelTrace Level = iota - 2
	LevelDebug
	LevelInfo
	LevelWarn
	LevelError
	LevelCritical
)

// String returns the level as it is written in the log.
func (l Level) String() string {
	switch {
	case l <= LevelTrace:
		return "TRACE"
	case l == LevelDebug:
		return "DEBG"
	case l == LevelInfo:
		return "INFO"
	case l == LevelWarn:
		return "WARN"
	case l == LevelError:
		return "ERRO"
	default:
		return "CRIT"
	}
}

// ParseLevel returns the level a kernel parameter or environment variable
// names, by upstream's names. An unknown name is an error that quotes it.
func ParseLevel(name string) (Level, error) {
	switch name {
	case "trace":
		return LevelTrace, nil
	case "debug":
		return LevelDebug, nil
	case "info":
		return LevelInfo, nil
	case "warn", "warning":
		return LevelWarn, nil
	case "error":
		return LevelError, nil
	case "critical", "fatal", "panic":
		return LevelCritical, nil
	}
	return 0, fmt.Errorf("unknown log level %q", name)
}

// maxLine bounds one line in bytes, so that a hostile value (a path, an
// argument list) can neither flood the console nor hold much memory.
const maxLine = 4096

// Logger writes records. It is safe for concurrent use; a nil Logger is valid
// and writes nothing.
type Logger struct {
	sink      *sink
	subsystem string
	fields    []byte // encoded ,"key":value pairs of With
}

// rootSubsystem is the subsystem of a Logger that has no other, as upstream's.
const rootSubsystem = "root"

// sink is what all Loggers of one New share.
type sink struct {
	level atomic.Int32

	mu  sync.Mutex // guards what follows; held across one write
	w   io.Writer
	buf []byte
	now func() time.Time
	// process is what every record says of the process, encoded.
	process []byte
}

// New returns a Logger that writes records of at least level to w.
func New(w io.Writer, level Level) *Logger {
	s := &sink{w: w, now: time.Now}
	s.level.Store(int32(level))
	s.identify(os.Getpid(), "")
	return &Logger{sink: s, subsystem: rootSubsystem}
}

// identify sets what every record says of the process. A pid is a string, as
// upstream's.
func (s *sink) identify(pid int, version string) {
	b := append([]byte(nil), `,"source":"agent","name":"kata-agent","pid":"`...)
	b = append(strconv.AppendInt(b, int64(pid), 10), `","version":`...)
	s.process = appendString(b, version)
}

// SetVersion sets the version of the program in records of every Logger of the
// same New.
func (l *Logger) SetVersion(version string) {
	if l == nil {
		return
	}
	l.sink.mu.Lock()
	defer l.sink.mu.Unlock()
	l.sink.identify(os.Getpid(), version)
}

// Subsystem returns a Logger whose records say that they come from the part of
// the program with that name.
func (l *Logger) Subsystem(name string) *Logger {
	if l == nil {
		return nil
	}
	return &Logger{sink: l.sink, subsystem: name, fields: l.fields}
}

// SetLevel changes the least level written, for every Logger of the same New.
func (l *Logger) SetLevel(level Level) {
	if l != nil {
		l.sink.level.Store(int32(level))
	}
}

// SetOutput redirects every Logger of the same New to w and returns the writer
// used before.
func (l *Logger) SetOutput(w io.Writer) io.Writer {
	if l == nil {
		return nil
	}
	l.sink.mu.Lock()
	defer l.sink.mu.Unlock()
	old := l.sink.w
	l.sink.w = w
	return old
}

// Enabled reports whether records of level are written.
func (l *Logger) Enabled(level Level) bool {
	return l != nil && int32(level) >= l.sink.level.Load()
}

// With returns a Logger whose records carry the key, value pairs of args
// before their own.
func (l *Logger) With(args ...any) *Logger {
	if l == nil {
		return nil
	}
	fields := append([]byte(nil), l.fields...)
	return &Logger{sink: l.sink, subsystem: l.subsystem, fields: appendPairs(fields, args)}
}

// Trace writes each step; args are key, value pairs.
func (l *Logger) Trace(msg string, args ...any) { l.log(LevelTrace, msg, args) }

// Debug writes what only a developer wants to see; args are key, value pairs.
func (l *Logger) Debug(msg string, args ...any) { l.log(LevelDebug, msg, args) }

// Info writes what an operator may want to see; args are key, value pairs.
func (l *Logger) Info(msg string, args ...any) { l.log(LevelInfo, msg, args) }

// Warn writes what went wrong and was coped with; args are key, value pairs.
func (l *Logger) Warn(msg string, args ...any) { l.log(LevelWarn, msg, args) }

// Error writes an error that ends here; args are key, value pairs.
func (l *Logger) Error(msg string, args ...any) { l.log(LevelError, msg, args) }

// Critical writes the error that ends the program; args are key, value pairs.
func (l *Logger) Critical(msg string, args ...any) { l.log(LevelCritical, msg, args) }

func (l *Logger) log(level Level, msg string, args []any) {
	if !l.Enabled(level) {
		return
	}
	s := l.sink
	s.mu.Lock()
	defer s.mu.Unlock()
	b := append(s.buf[:0], `{"msg":`...)
	b = appendString(b, msg)
	b = append(b, `,"level":"`...)
	b = append(b, level.String()...)
	b = append(b, `","ts":"`...)
	b = appendTime(b, s.now().UnixMicro())
	b = append(b, '"')
	b = append(b, s.process...)
	b = append(b, `,"subsystem":`...)
	b = appendString(b, l.subsystem)
	b = append(b, l.fields...)
	b = appendPairs(b, args)
	b = append(b, "}\n"...)
	// The console is the last place there is: an error of its own has nowhere to go.
	_, _ = s.w.Write(b)
	if cap(b) <= maxLine {
		s.buf = b
	}
}
