package fmt_test

import (
	"errors"
	stdfmt "fmt"
	"io"
	"io/fs"
	"os"
	"reflect"
	"strings"
	"syscall"
	"testing"
	"time"

	"kata/lib/fmt"
)

type (
	name   string
	number int32
	flags  uint16
	nobody struct{}
)

func (*nobody) Error() string { return "nobody" }

// values are what the agent formats, and what it might.
func values() []any {
	return []any{
		"", "text", "tab\tand \"quote\"", "Grüße", "\xff\x00", "`", name("n"), 0, 1, -1, -1 << 63, 255, int8(-128), uint8(200), uint16(80), int32(-5),
		uint32(1 << 31), int64(1 << 40), uint64(1<<64 - 1), uintptr(4096), number(7), flags(9), 'ä', true, false,
		[]byte("bytes"), []byte(nil), []string{"a", "b"}, []string(nil), []int{1, -2}, []any{"x", 1}, []error{io.EOF}, []uint32{7},
		io.EOF, &nobody{}, (*nobody)(nil), syscall.ENOENT, time.Second,
		&fs.PathError{Op: "open", Path: "/x", Err: os.ErrNotExist}, errors.Join(io.EOF, os.ErrClosed), nil,
	}
}

func TestTextsAreThoseOfTheStandardLibrary(t *testing.T) {
	formats := []string{"%s", "%v", "%q", "%d", "%x", "%#x", "%t", "%c", "%5d", "%05d", "%-5d|", "%8s|", "%-8s|", "%02d", "%06d", "%08x", "%#o", "%o", "a%%b %v c", "%w"}
	for _, format := range formats {
		for _, value := range values() {
			if outside(format, value) {
				continue
			}
			got, want := fmt.Sprintf(format, value), stdfmt.Sprintf(format, value)
			if mistake := strings.Contains(want, "%!"); mistake && !strings.Contains(got, "%!") || !mistake && got != want {
				t.Errorf("%s of %T %#v is %q, want %q", format, value, value, got, want)
			}
		}
	}
}

// outside says that a combination is none of this package's: lists with flags or
// as hexadecimal, and the numbers of addresses.
func outside(format string, value any) bool {
	switch reflect.ValueOf(value).Kind() {
	case reflect.Slice, reflect.Array:
		bytes, _ := value.([]byte)
		return format != "%v" && (format != "%s" && format != "%q" || bytes == nil) && (format != "%d" || reflect.TypeOf(value) == reflect.TypeFor[[]error]())
	case reflect.Pointer:
		return format != "%s" && format != "%v" && format != "%q" && format != "%w"
	}
	return false
}

func TestMistakesInAFormat(t *testing.T) {
	for _, tt := range []struct {
		format string
		values []any
		want   string
	}{
		{"%", nil, "%!(NOVERB)"},
		{"%5", []any{1}, "%!(NOVERB)%!(EXTRA)"},
		{"%d and %s", []any{1}, "1 and %!s(MISSING)"},
		{"none", []any{1}, "none%!(EXTRA)"},
		{"%y", []any{1}, "%!y(int)"},
		{"%d", []any{"text"}, "%!d(string)"},
		{"%d", []any{1.5}, "%!d(BADTYPE)"},
		{"%s", []any{nil}, "%!s(nil)"},
		{"%w", []any{io.EOF}, "%!w(BADTYPE)"},
	} {
		if got := fmt.Sprintf(tt.format, tt.values...); got != tt.want {
			t.Errorf("%q of %v is %q, want %q", tt.format, tt.values, got, tt.want)
		}
	}
}

func TestSprint(t *testing.T) {
	for _, v := range [][]any{{}, {1, 2}, {"a", "b"}, {"a", 1, 2, "b", io.EOF, io.EOF}, {nil, nil}} {
		if got, want := fmt.Sprint(v...), stdfmt.Sprint(v...); got != want {
			t.Errorf("%v is %q, want %q", v, got, want)
		}
	}
}

func TestErrorf(t *testing.T) {
	path := &fs.PathError{Op: "open", Path: "/x", Err: syscall.ENOENT}
	for _, tt := range []struct {
		format string
		values []any
	}{
		{"plain", nil},
		{"text %d", []any{1}},
		{"open: %w", []any{path}},
		{"%w: %w", []any{path, io.EOF}},
		{"%s %v: %w", []any{"a", path, io.EOF}},
		{"%w", []any{"no error"}},
		{"%w", []any{nil}},
		{"%w", nil},
	} {
		got, want := fmt.Errorf(tt.format, tt.values...), stdfmt.Errorf(tt.format, tt.values...)
		if mistake := strings.Contains(want.Error(), "%!"); got.Error() != want.Error() && !(mistake && strings.Contains(got.Error(), "%!")) {
			t.Errorf("%q is %q, want %q", tt.format, got, want)
		}
		for _, target := range []error{path, io.EOF, os.ErrNotExist} {
			if errors.Is(got, target) != errors.Is(want, target) {
				t.Errorf("%q: Is(%v) is %v", tt.format, target, errors.Is(got, target))
			}
		}
		if (errors.Unwrap(got) == nil) != (errors.Unwrap(want) == nil) {
			t.Errorf("%q: Unwrap is %v, want %v", tt.format, errors.Unwrap(got), errors.Unwrap(want))
		}
	}
}

func TestAppendfAndFprintf(t *testing.T) {
	if got := string(fmt.Appendf([]byte("a"), "%d%s", 1, "b")); got != "a1b" {
		t.Error(got)
	}
	var w writes
	if n, err := fmt.Fprintf(&w, "%s\n", "line"); n != 5 || err != nil || len(w) != 1 || w[0] != "line\n" {
		t.Error(n, err, w)
	}
}

type writes []string

func (w *writes) Write(b []byte) (int, error) {
	*w = append(*w, string(b))
	return len(b), nil
}

func FuzzFormat(f *testing.F) {
	f.Add("%s %d", "x", 1)
	f.Add("%-08q|%#x", "\xff", -1)
	f.Fuzz(func(t *testing.T, format, text string, n int) {
		// What is not offered differs by design; nothing may panic, or grow
		// beyond what the format says.
		if got := fmt.Sprintf(format, text, n); len(got) > (len(format)+1)*(2048+10*len(text)) {
			t.Errorf("%q gives %d bytes", format, len(got))
		}
		if got, want := fmt.Sprintf("%q %s %d %x", text, text, n, n), stdfmt.Sprintf("%q %s %d %x", text, text, n, n); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	})
}
