package log

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"
)

// fixed returns a Logger with a fixed clock and the buffer it writes to.
func fixed(level Level) (*Logger, *bytes.Buffer) {
	var out bytes.Buffer
	l := New(&out, level)
	l.sink.now = func() time.Time { return time.Date(2026, 1, 2, 3, 4, 5, 6000, time.UTC) }
	l.sink.identify(1, "1.2")
	return l, &out
}

func TestRecordIsOneJSONLine(t *testing.T) {
	l, out := fixed(LevelInfo)
	l.Subsystem("oom").With("container", "c1").Info("created", "pid", 7, "ok", true, "took", 3*time.Millisecond, "error", errors.New("no \"such\" file"))
	const want = `{"msg":"created","level":"INFO","ts":"2026-01-02T03:04:05.000006Z","source":"agent","name":"kata-agent",` +
		`"pid":"1","version":"1.2","subsystem":"oom","container":"c1","pid":7,"ok":true,"took":"3ms","error":"no \"such\" file"}` + "\n"
	if out.String() != want {
		t.Errorf("got  %swant %s", out.String(), want)
	}
}

func TestRecordsBelowTheLevelAreDropped(t *testing.T) {
	l, out := fixed(LevelWarn)
	l.Debug("d")
	l.Info("i")
	l.Warn("w")
	l.Error("e")
	if n := strings.Count(out.String(), "\n"); n != 2 {
		t.Errorf("%d lines, want 2:\n%s", n, out)
	}
	l.SetLevel(LevelTrace)
	l.Debug("d")
	if !strings.Contains(out.String(), "DEBG") {
		t.Error("debug record missing after SetLevel")
	}
}

func TestLevels(t *testing.T) {
	levels := []Level{LevelTrace, LevelDebug, LevelInfo, LevelWarn, LevelError, LevelCritical}
	for i, level := range levels {
		l, out := fixed(level)
		l.Trace("")
		l.Debug("")
		l.Info("")
		l.Warn("")
		l.Error("")
		l.Critical("")
		var got []string
		for d := json.NewDecoder(out); ; {
			var record struct{ Level, Version, Pid, Subsystem string }
			if d.Decode(&record) != nil {
				break
			}
			if record.Version != "1.2" || record.Pid != "1" || record.Subsystem != "root" {
				t.Errorf("record %+v", record)
			}
			got = append(got, record.Level)
		}
		want := []string{"TRACE", "DEBG", "INFO", "WARN", "ERRO", "CRIT"}[i:]
		if strings.Join(got, " ") != strings.Join(want, " ") {
			t.Errorf("level %v writes %v, want %v", level, got, want)
		}
	}
}

func TestNilLoggerDiscards(t *testing.T) {
	var l *Logger
	l.Subsystem("s").With("a", 1).Error("x")
	l.SetVersion("1")
	l.SetLevel(LevelDebug)
	if l.Enabled(LevelCritical) {
		t.Error("nil logger is enabled")
	}
}

func TestOddArgumentsAreNamed(t *testing.T) {
	l, out := fixed(LevelInfo)
	l.Info("m", "alone")
	l.Info("m", 3, "k", "v")
	for _, want := range []string{`"!BADKEY":"alone"`, `"!BADKEY":3`, `"k":"v"`} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%s missing in %s", want, out)
		}
	}
}

func TestParseLevelKnowsUpstreamsNames(t *testing.T) {
	for name, want := range map[string]Level{
		"trace": LevelTrace, "debug": LevelDebug, "info": LevelInfo, "warn": LevelWarn,
		"warning": LevelWarn, "error": LevelError, "critical": LevelCritical, "fatal": LevelCritical, "panic": LevelCritical,
	} {
		if got, err := ParseLevel(name); err != nil || got != want {
			t.Errorf("ParseLevel(%q) = %v, %v", name, got, err)
		}
	}
	if _, err := ParseLevel("loud"); err == nil || !strings.Contains(err.Error(), `"loud"`) {
		t.Errorf("error does not quote the name: %v", err)
	}
}

func FuzzLineIsValidJSON(f *testing.F) {
	f.Add("msg", "key", "value")
	f.Add("\x00\xff", "\"\\", "a\u2028b")
	f.Add(strings.Repeat("x", 5000), "", "\n")
	f.Fuzz(func(t *testing.T, msg, key, value string) {
		l, out := fixed(LevelInfo)
		l.With(key, value).Info(msg, key, value, value)
		if n := strings.Count(out.String(), "\n"); n != 1 {
			t.Fatalf("%d lines", n)
		}
		if !json.Valid(out.Bytes()) {
			t.Fatalf("not JSON: %q", out)
		}
	})
}
