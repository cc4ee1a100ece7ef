// Package command runs the command lines of kata-agent-ctl: calls of the
// agent's API by their names, with arguments as text, and a few built-in
// commands around them.
//
//	parser := command.NewParser()
//	c, err := parser.Parse("StartContainer cid=web")   // checks all it can
//	session := command.NewSession(config)              // on a connection
//	err = session.Run(ctx, c)                          // writes the answer
//
// A line is parsed before anything is sent, so that a script with a typo in its
// last line does nothing at all; an error of that kind is a [UsageError]. What a
// call needs from files (a spec, data) is read when it runs.
//
// A [Session] remembers the pod and the container that were named last, as
// upstream's tool does, so that a sequence need not repeat them. It neither
// makes nor closes the connection, and it does not read from a terminal
// (package console).
package command

import (
	"context"
	"errors"
	"fmt"
	"strings"
)

// ErrQuit is what Run returns for the command quit.
var ErrQuit = errors.New("quit")

// UsageError says what is wrong with a command line, before anything is sent.
type UsageError struct {
	Line string // the command line
	Err  error
}

// Error names the command line and what is wrong with it.
func (e *UsageError) Error() string { return fmt.Sprintf("%s: %v", e.Line, e.Err) }

// Unwrap returns what is wrong.
func (e *UsageError) Unwrap() error { return e.Err }

// Command is a command line that has been parsed.
type Command struct {
	name string
	run  func(ctx context.Context, s *Session) error
	// prefix tells that the command changes how the next one is run.
	prefix bool
}

// Parser knows the commands.
type Parser struct {
	methods  map[string]*method
	names    []string // of the methods, sorted
	builtins []builtin
	about    map[string]string
}

// NewParser returns a Parser.
func NewParser() *Parser {
	p := &Parser{methods: map[string]*method{}, builtins: builtins(), about: about()}
	for _, m := range methods() {
		p.methods[m.name] = &m
		p.names = append(p.names, m.name)
	}
	return p
}

// Parse reads a command line. An empty one, or one with nothing but a comment,
// is nil. The error is a *UsageError.
func (p *Parser) Parse(line string) (*Command, error) {
	c, err := p.parse(&scanner{line: line})
	if err != nil {
		return nil, &UsageError{Line: strings.TrimSpace(line), Err: err}
	}
	return c, nil
}

func (p *Parser) parse(s *scanner) (*Command, error) {
	name, ok, err := s.next()
	if err != nil || !ok {
		return nil, err
	}
	for _, b := range p.builtins {
		if b.name == name {
			return b.parse(p, s)
		}
	}
	m, ok := p.methods[name]
	if !ok {
		return nil, p.unknown(name)
	}
	words, err := s.words()
	if err != nil {
		return nil, err
	}
	a, err := parseArguments(m, words)
	if err != nil {
		return nil, err
	}
	return &Command{name: name, run: func(ctx context.Context, s *Session) error { return s.call(ctx, m, a) }}, nil
}

func (p *Parser) unknown(name string) error {
	if meant := suggest(name, p.all()); meant != "" {
		return fmt.Errorf("there is no command %q; did you mean %s?", name, meant)
	}
	return fmt.Errorf("there is no command %q; the command list shows all", name)
}

// all returns the names of all commands, calls first.
func (p *Parser) all() []string {
	names := append([]string(nil), p.names...)
	for _, b := range p.builtins {
		names = append(names, b.name)
	}
	return names
}
