package wire

import (
	"bytes"
	"errors"
	"strings"
	"testing"
)

func TestOutputThenExitStatus(t *testing.T) {
	var wire, out bytes.Buffer
	long := strings.Repeat("x", 3*maxPayload+1)
	for _, s := range []string{"one\n", long, ""} {
		if err := Write(&wire, Output, []byte(s)); err != nil {
			t.Fatal(err)
		}
	}
	if err := WriteExit(&wire, 137); err != nil {
		t.Fatal(err)
	}
	status, err := Read(&wire, &out)
	if err != nil || status != 137 || out.String() != "one\n"+long {
		t.Errorf("status %d, %d bytes, %v", status, out.Len(), err)
	}
}

func TestStreamsThatEndBadly(t *testing.T) {
	exit := new(bytes.Buffer)
	if err := WriteExit(exit, 0); err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct{ stream, want string }{
		"nothing":              {"", ErrTruncated.Error()},
		"half a frame":         {exit.String()[:7], ErrTruncated.Error()},
		"a fault of the guest": {"F\x04\x00\x00\x00oops", "in the guest: oops"},
		"an unknown type":      {"?\x00\x00\x00\x00", "frame of unknown type '?'"},
		"a frame too long":     {"O\xff\xff\xff\xff", "frame of 4294967295 bytes"},
		"a short exit status":  {"X\x01\x00\x00\x00\x00", "exit frame of 1 bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Read(strings.NewReader(tt.stream), &bytes.Buffer{})
			if err == nil || err.Error() != tt.want {
				t.Errorf("got %v, want %s", err, tt.want)
			}
		})
	}
}

func FuzzRead(f *testing.F) {
	f.Add([]byte("O\x01\x00\x00\x00aX\x04\x00\x00\x00\x01\x00\x00\x00"))
	f.Fuzz(func(t *testing.T, stream []byte) {
		var out bytes.Buffer
		_, err := Read(bytes.NewReader(stream), &out)
		if out.Len() > len(stream) {
			t.Errorf("%d bytes of output from %d", out.Len(), len(stream))
		}
		if len(stream) == 0 && !errors.Is(err, ErrTruncated) {
			t.Errorf("empty stream: %v", err)
		}
	})
}
