package command

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"time"

	"kata/api/agentpb"
	"kata/api/ocipb"
	"kata/api/ttrpc"
	"kata/cli/agentctl/message"
)

// Config says what a session works with.
type Config struct {
	Client  *ttrpc.Client
	Address string // of the agent, for errors
	// BundleDir holds the config.json that containers are made from when a
	// command names none; "" is none.
	BundleDir string
	// Timeout bounds every call; 0 is for ever.
	Timeout time.Duration
	// NoDefaults leaves out of requests all that the command line does not say.
	NoDefaults bool
	// IgnoreErrors makes repeat go on after a failure.
	IgnoreErrors bool
	// JSON makes every answer and failure one line of JSON.
	JSON bool
	// Share brings root file systems and bind mounts into the guest; nil when
	// the agent sees the host's files.
	Share Share
	// Storages are those of a sandbox that is created without any.
	Storages []*agentpb.Storage
	Out      io.Writer // answers, and failures as JSON
	Err      io.Writer // failures as text
	Log      *slog.Logger
}

// Share makes files of the host visible in the guest; package host/share has
// one.
type Share interface {
	AddRootfs(cid, source string, readonly bool) (guestPath string, undo func() error, err error)
	AddBind(cid string, n int, source string, readonly, recursive bool) (guestPath string, undo func() error, err error)
	RemoveContainer(cid string) error
}

// Session runs commands on one connection. It is not for concurrent use.
type Session struct {
	cfg Config

	sandbox, container string                    // named last
	processes          map[string]*ocipb.Process // first processes of containers created here
	times              int                       // how often the next command runs, if not once
}

// NewSession returns a session. The client stays the caller's.
func NewSession(cfg Config) *Session {
	return &Session{cfg: cfg, processes: map[string]*ocipb.Process{}}
}

// CallError is a call that failed: what was called, where, and what came back.
type CallError struct {
	Call    string // name of the call
	Address string
	Code    ttrpc.Code
	Message string
	Err     error // what Call of the client returned
}

// Error tells all of it.
func (e *CallError) Error() string {
	return fmt.Sprintf("%s at %s: %s: %s", e.Call, e.Address, e.Code, e.Message)
}

// Unwrap returns the cause.
func (e *CallError) Unwrap() error { return e.Err }

// Run runs a command and writes its answer. A call that fails is a *CallError;
// ErrQuit asks for the end of the session. What ctx ends is only the command.
func (s *Session) Run(ctx context.Context, c *Command) error {
	if c == nil {
		return nil
	}
	if times := s.times; times != 0 && !c.prefix {
		s.times = 0
		return s.repeat(ctx, c, times)
	}
	return c.run(ctx, s)
}

// repeat runs a command n times, or for ever if n is negative.
func (s *Session) repeat(ctx context.Context, c *Command, n int) error {
	for i := 0; n < 0 || i < n; i++ {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("repeat: %w", context.Cause(ctx))
		}
		err := s.Run(ctx, c)
		if err != nil && (!s.cfg.IgnoreErrors || errors.Is(err, ErrQuit)) {
			return err
		}
		s.Report(err)
	}
	return nil
}

// call sends a request and shows the answer.
func (s *Session) call(ctx context.Context, m *method, a *arguments) error {
	r, err := s.build(m, a)
	if err != nil {
		return fmt.Errorf("%s: %w", m.name, err)
	}
	if sent, err := r.message.JSON(); err == nil {
		s.cfg.Log.Debug("call", "method", m.name, "request", string(sent))
	}
	if s.cfg.Timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, s.cfg.Timeout)
		defer cancel()
	}
	start := time.Now()
	response, err := m.call(ctx, s.cfg.Client, r.message)
	s.cfg.Log.Debug("answer", "method", m.name, "code", ttrpc.CodeOf(err).String(), "took", time.Since(start))
	s.noteResult(r, err == nil)
	if err != nil {
		return s.callError(ctx, m, err)
	}
	return s.answer(m, r, response)
}

func (s *Session) callError(ctx context.Context, m *method, err error) error {
	e := &CallError{Call: m.name, Address: s.cfg.Address, Code: ttrpc.CodeOf(err), Message: err.Error(), Err: err}
	var status *ttrpc.Error
	switch {
	case errors.As(err, &status): // the agent's own words
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		e.Message = fmt.Sprintf("no answer within %s", s.cfg.Timeout)
	case ctx.Err() != nil:
		e.Message = "interrupted"
	case errors.Is(err, ttrpc.ErrClosed):
		e.Message = "the agent closed the connection"
	}
	return e
}

// answer writes what a call has returned.
func (s *Session) answer(m *method, r *request, response *message.Message) error {
	if s.cfg.JSON {
		answer, err := response.JSON()
		if err != nil {
			return fmt.Errorf("%s: the answer: %w", m.name, err)
		}
		var b bytes.Buffer
		b.WriteString(`{"command":` + quote(m.name))
		for _, id := range r.ids() {
			b.WriteString("," + quote(id.key) + ":" + quote(id.value))
		}
		b.WriteString(`,"response":`)
		b.Write(answer)
		b.WriteString("}\n")
		return s.write(b.Bytes())
	}
	text, err := response.Text()
	if err != nil {
		return fmt.Errorf("%s: the answer: %w", m.name, err)
	}
	if response.Name() == "Empty" {
		text = "ok"
		for _, id := range r.generated {
			text += " " + id.key + "=" + id.value
		}
		text += "\n"
	}
	return s.write([]byte(text))
}

// text writes the result of a built-in command.
func (s *Session) text(name, text string) error {
	if s.cfg.JSON {
		text = `{"command":` + quote(name) + `,"response":{"text":` + quote(text) + "}}\n"
	}
	return s.write([]byte(text))
}

func (s *Session) write(data []byte) error {
	if _, err := s.cfg.Out.Write(data); err != nil {
		return fmt.Errorf("write the answer: %w", err)
	}
	return nil
}

// Report writes an error that Run has returned; nil is none.
func (s *Session) Report(err error) {
	switch {
	case err == nil:
	case s.cfg.JSON:
		_ = s.write([]byte(failure(err)))
	default:
		_, _ = fmt.Fprintln(s.cfg.Err, "kata-agent-ctl:", err)
	}
}

// failure is an error as a line of JSON.
func failure(err error) string {
	call := &CallError{Message: err.Error()}
	if !errors.As(err, &call) {
		return `{"error":{"message":` + quote(err.Error()) + "}}\n"
	}
	return `{"command":` + quote(call.Call) + `,"address":` + quote(call.Address) +
		`,"error":{"code":` + quote(call.Code.String()) + `,"message":` + quote(call.Message) + "}}\n"
}

func quote(text string) string {
	encoded, _ := json.Marshal(text) // of a string it cannot fail
	return string(encoded)
}

// maxFile bounds what a request takes from one file: a request has 4 MiB.
const maxFile = 4 << 20

func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, err
	}
	if len(data) > maxFile {
		return nil, fmt.Errorf("%s is larger than %d bytes, the most a request takes", path, maxFile)
	}
	return data, nil
}
