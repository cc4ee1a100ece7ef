package helper

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"kata/api"
	"kata/guest/agent/reaper"
	"kata/lib/lzma"
)

// The test program is the helper, too: it is called by what it is to do.
func TestMain(m *testing.M) {
	switch os.Args[0] {
	case "echo":
		fmt.Print(strings.Join(os.Args[1:], " "), ":", len(os.Environ()), ":")
		_, _ = io.Copy(os.Stdout, os.Stdin)
		os.Exit(0)
	case "fail":
		fmt.Fprintln(os.Stderr, "  it is\nwrong\xff ")
		os.Exit(2)
	case "flood":
		var err error
		for block := make([]byte, 64<<10); err == nil; {
			_, err = os.Stdout.Write(block)
		}
		_, _ = io.Copy(os.Stderr, strings.NewReader(strings.Repeat("x", 1<<20)))
		os.Exit(0)
	case "sleep":
		time.Sleep(time.Hour)
	}
	os.Exit(m.Run())
}

// helpers returns a folder of helpers: one packed, others as they are.
func helpers(t *testing.T) *Config {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for _, name := range []string{"fail", "flood", "sleep"} {
		if err := os.Symlink(self, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	program, err := os.ReadFile(self)
	if err != nil {
		t.Fatal(err)
	}
	write := func(name string, data []byte) {
		if err := os.WriteFile(filepath.Join(dir, name+api.HelperPacked), data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	packed := lzma.Pack(program, program)
	write("echo", packed)
	write("cut", packed[:len(packed)/2])
	write("text", []byte("nothing that is packed"))
	write("other", lzma.Pack([]byte("no program"), program))
	r := reaper.New()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = r.Run(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		<-ended
	})
	return &Config{Dir: dir, Agent: self, Timeout: time.Minute, Reaper: r}
}

func TestAPackedHelperRuns(t *testing.T) {
	c := helpers(t)
	for range 3 {
		input := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
		out, err := c.Run(t.Context(), "echo", []string{"a", "b c"}, input)
		if err != nil {
			t.Fatal(err)
		}
		if want := append([]byte("a b c:0:"), input...); !bytes.Equal(out, want) {
			t.Errorf("%d bytes that begin with %.20q", len(out), out)
		}
	}
}

func TestWhatHelpersDoIsBounded(t *testing.T) {
	c := helpers(t)
	out, err := c.Run(t.Context(), "flood", nil, nil)
	if err != nil || len(out) != MaxOutput {
		t.Errorf("a flood: %d bytes, %v", len(out), err)
	}
	exit := (*ExitError)(nil)
	if _, err = c.Run(t.Context(), "fail", nil, nil); !errors.As(err, &exit) || exit.Status != 2 || err.Error() != "it is\nwrong?" {
		t.Errorf("a failure: %q", err)
	}
	c.Timeout = 50 * time.Millisecond
	if _, err = c.Run(t.Context(), "sleep", nil, nil); !errors.Is(err, context.DeadlineExceeded) || err.Error() != "sleep: context deadline exceeded" {
		t.Errorf("one that does not end: %v", err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	gone := errors.New("the client is gone")
	cancel(gone)
	if _, err = c.Run(ctx, "sleep", nil, nil); !errors.Is(err, gone) {
		t.Errorf("for nobody: %v", err)
	}
}

func TestWhatIsNoHelper(t *testing.T) {
	c := helpers(t)
	for name, want := range map[string]string{
		"none":  "the guest's image has no DIR/none",
		"cut":   "unpack DIR/cut.packed: corrupt LZMA stream",
		"text":  "unpack DIR/text.packed: not a packed file",
		"other": "run other: exec format error",
	} {
		_, err := c.Run(t.Context(), name, nil, nil)
		if err == nil || strings.ReplaceAll(err.Error(), c.Dir, "DIR") != want {
			t.Errorf("%s: %v, want %s", name, err, want)
		}
		if missing := (*MissingError)(nil); errors.As(err, &missing) != (name == "none") {
			t.Errorf("%s: %T", name, err)
		}
	}
}
