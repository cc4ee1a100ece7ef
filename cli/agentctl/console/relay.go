package console

import (
	"context"
	"errors"
	"io"
	"os"

	"golang.org/x/term"
)

// Relay connects who types on in and reads out with the program at the other end
// of conn, which it closes, until that program ends or ctx does. A terminal is in
// raw mode meanwhile: every key is the program's, Ctrl-C too. At the end of the
// input the other end is told so, if conn can tell.
func Relay(ctx context.Context, in *os.File, out io.Writer, conn io.ReadWriteCloser) (err error) {
	keys, err := newInput(in)
	if err != nil {
		return errors.Join(err, conn.Close())
	}
	defer func() { err = errors.Join(err, keys.close()) }()
	if fd := int(in.Fd()); term.IsTerminal(fd) {
		cooked, err := term.MakeRaw(fd)
		if err != nil {
			return errors.Join(err, conn.Close())
		}
		defer func() { _ = term.Restore(fd, cooked) }()
	}
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		_, err := io.Copy(conn, struct{ io.Reader }{keys}) // os.File would read by itself
		if half, ok := conn.(interface{ CloseWrite() error }); ok && err == nil {
			_ = half.CloseWrite()
		}
	}()
	_, err = io.Copy(out, conn)
	keys.interrupt()
	_ = conn.Close()
	<-sent
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}
