package stdio

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// loggerGrace bounds the wait for a logging program, once its input has ended,
// and again after SIGTERM.
const loggerGrace = 5 * time.Second

// logger is a program that reads a process's output (containerd's binary://).
type logger struct {
	cmd    *exec.Cmd
	exited chan struct{}
}

// startLogger starts the program of c.Stdout and waits until it closes its
// descriptor 5 (or, for binary-v2, writes a byte there first), which says that
// it is ready. The results are the writing ends of its descriptors 3 and 4.
func startLogger(ctx context.Context, c Config) (_ *logger, stdout, stderr *os.File, err error) {
	path, args, err := parseProgram(c.Stdout)
	if err != nil {
		return nil, nil, nil, err
	}
	var pipes [3]struct{ r, w *os.File }
	defer func() {
		for _, p := range pipes {
			if err != nil {
				closeFiles(p.r, p.w)
			}
		}
	}()
	for i := range pipes {
		if pipes[i].r, pipes[i].w, err = os.Pipe(); err != nil {
			return nil, nil, nil, err
		}
	}
	cmd := exec.Command(path, args...)
	cmd.Env = []string{"CONTAINER_ID=" + c.ID, "CONTAINER_NAMESPACE=" + c.Namespace}
	cmd.ExtraFiles = []*os.File{pipes[0].r, pipes[1].r, pipes[2].w}
	if err := cmd.Start(); err != nil {
		return nil, nil, nil, err
	}
	l := &logger{cmd: cmd, exited: make(chan struct{})}
	go func() {
		defer close(l.exited)
		_ = cmd.Wait() // its exit status is nobody's business
	}()
	closeFiles(pipes[0].r, pipes[1].r, pipes[2].w)
	if err := awaitReady(ctx, pipes[2].r, strings.HasPrefix(c.Stdout, "binary-v2")); err != nil {
		_ = cmd.Process.Kill()
		<-l.exited
		return nil, nil, nil, fmt.Errorf("%s: %w", path, err)
	}
	closeFiles(pipes[2].r)
	return l, pipes[0].w, pipes[1].w, nil
}

// parseProgram splits binary://path?key=value&... into the program and its
// arguments: each key followed by its value, in the order given.
func parseProgram(uri string) (path string, args []string, err error) {
	u, err := url.Parse(uri)
	if err != nil {
		return "", nil, err
	}
	if u.Path == "" {
		return "", nil, fmt.Errorf("%s: names no program", uri)
	}
	for part := range strings.SplitSeq(u.RawQuery, "&") {
		if part == "" {
			continue
		}
		key, value, _ := strings.Cut(part, "=")
		for _, s := range []string{key, value} {
			if s, err = url.QueryUnescape(s); err != nil {
				return "", nil, err
			}
			args = append(args, s)
		}
	}
	return u.Path, args, nil
}

func awaitReady(ctx context.Context, ready *os.File, wantByte bool) error {
	stop := context.AfterFunc(ctx, func() { _ = ready.SetReadDeadline(past) })
	defer stop()
	n, err := ready.Read(make([]byte, 1))
	switch {
	case isDeadline(err):
		return fmt.Errorf("wait until it is ready: %w", context.Cause(ctx))
	case n == 0 && wantByte:
		return errors.New("it ended before it was ready")
	}
	return nil
}

// stop waits for the program to end of its own accord, now that its input has
// ended, and then makes it.
func (l *logger) stop() error {
	for _, sig := range []syscall.Signal{0, syscall.SIGTERM, syscall.SIGKILL} {
		_ = l.cmd.Process.Signal(sig) // it may have ended meanwhile
		timer := time.NewTimer(loggerGrace)
		select {
		case <-l.exited:
			timer.Stop()
			return nil
		case <-timer.C:
		}
	}
	return fmt.Errorf("logging program %s (pid %d) does not end", l.cmd.Path, l.cmd.Process.Pid)
}

func closeFiles(files ...*os.File) {
	for _, f := range files {
		if f != nil {
			_ = f.Close()
		}
	}
}
