// Package console reads command lines from a person: with editing, history and
// completion on a terminal, plainly from anything else.
//
// The terminal is in raw mode only while a line is typed, so that a command
// that runs can be interrupted with Ctrl-C and writes as any program does. At
// the prompt Ctrl-C and Ctrl-D end the input.
//
// Life cycle: New, ReadLine until io.EOF, Close. Not for concurrent use.
package console

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"
	"golang.org/x/term"
)

// Completer returns what the last word of the beginning of a line can become,
// and where that word begins.
type Completer func(line string) (start int, candidates []string)

// Console reads lines.
type Console struct {
	in      *os.File
	lines   *bufio.Reader  // unless on a terminal
	editor  *term.Terminal // on a terminal
	input   *input
	columns int
}

// New returns a Console that reads from in and, if that is a terminal, shows
// the prompt on it.
func New(in *os.File, prompt string, complete Completer) (*Console, error) {
	c := &Console{in: in}
	if !term.IsTerminal(int(in.Fd())) {
		c.lines = bufio.NewReader(in)
		return c, nil
	}
	input, err := newInput(in)
	if err != nil {
		return nil, err
	}
	c.input = input
	c.editor = term.NewTerminal(input, prompt)
	c.editor.AutoCompleteCallback = func(line string, pos int, key rune) (string, int, bool) {
		if key != '\t' {
			return "", 0, false
		}
		return c.complete(complete, line, pos)
	}
	return c, nil
}

// IsTerminal reports whether a person types.
func (c *Console) IsTerminal() bool { return c.editor != nil }

// Close releases what New acquired; the file stays the caller's.
func (c *Console) Close() error {
	if c.input == nil {
		return nil
	}
	return c.input.close()
}

// ReadLine returns the next line, without its end, and io.EOF when there is
// none. On a terminal ctx ends the wait; from a file or pipe it does not.
func (c *Console) ReadLine(ctx context.Context) (line string, err error) {
	if c.lines != nil {
		line, err := c.lines.ReadString('\n')
		if err != nil && line == "" {
			return "", err
		}
		return strings.TrimRight(line, "\r\n"), nil
	}
	state, err := term.MakeRaw(int(c.in.Fd()))
	if err != nil {
		return "", fmt.Errorf("prepare the terminal: %w", err)
	}
	defer func() {
		if restoreErr := term.Restore(int(c.in.Fd()), state); restoreErr != nil {
			err = errors.Join(err, fmt.Errorf("restore the terminal: %w", restoreErr))
		}
	}()
	if columns, rows, err := term.GetSize(int(c.in.Fd())); err == nil && columns > 0 {
		c.columns = columns
		_ = c.editor.SetSize(columns, rows) // its writes fail with the next read
	}
	stop := context.AfterFunc(ctx, c.input.interrupt)
	defer stop()
	line, err = c.editor.ReadLine()
	if errors.Is(err, term.ErrPasteIndicator) {
		err = nil
	}
	if errors.Is(err, io.EOF) {
		_, _ = c.input.Write([]byte("\r\n"))
	}
	return line, err
}

// complete extends the word before the cursor as far as all candidates agree,
// and shows them when that is not further.
func (c *Console) complete(complete Completer, line string, pos int) (string, int, bool) {
	start, candidates := complete(line[:pos])
	if len(candidates) == 0 {
		return line, pos, true
	}
	common := candidates[0]
	for _, candidate := range candidates[1:] {
		for !strings.HasPrefix(candidate, common) {
			common = common[:len(common)-1]
		}
	}
	if len(candidates) == 1 && !strings.HasSuffix(common, "=") && !strings.HasSuffix(common, ".") && !strings.HasSuffix(common, "/") {
		common += " "
	}
	if start+len(common) == pos && len(candidates) > 1 {
		_, _ = c.editor.Write([]byte(inColumns(candidates, c.columns)))
	}
	return line[:start] + common + line[pos:], start + len(common), true
}

// inColumns sets words in columns as wide as the longest.
func inColumns(words []string, width int) string {
	column := 0
	for _, word := range words {
		column = max(column, len(word)+2)
	}
	perLine := max(1, width/column)
	var b strings.Builder
	for i, word := range words {
		if i%perLine == perLine-1 || i == len(words)-1 {
			b.WriteString(word + "\n")
		} else {
			fmt.Fprintf(&b, "%-*s", column, word)
		}
	}
	return b.String()
}

// input is the terminal, whose reads can be interrupted: a terminal has no
// deadlines, so a read waits for it and for a pipe.
type input struct {
	*os.File
	wake, waker *os.File
}

func newInput(f *os.File) (*input, error) {
	wake, waker, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	return &input{f, wake, waker}, nil
}

// Read implements io.Reader; io.EOF also when interrupted.
func (i *input) Read(p []byte) (int, error) {
	fds := []unix.PollFd{
		{Fd: int32(i.Fd()), Events: unix.POLLIN},
		{Fd: int32(i.wake.Fd()), Events: unix.POLLIN},
	}
	for {
		_, err := unix.Poll(fds, -1)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return 0, os.NewSyscallError("poll", err)
		case fds[1].Revents != 0:
			return 0, io.EOF
		}
		return i.File.Read(p)
	}
}

// interrupt ends the read in progress and all to come.
func (i *input) interrupt() {
	_, _ = i.waker.Write([]byte{0}) // the pipe has room for it
}

func (i *input) close() error { return errors.Join(i.wake.Close(), i.waker.Close()) }
