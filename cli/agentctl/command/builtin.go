package command

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// builtin is a command that is no call.
type builtin struct {
	name, usage, about string
	parse              func(p *Parser, s *scanner) (*Command, error)
}

func builtins() []builtin {
	return []builtin{
		{"echo", "echo WORD…", "write the words", parseEcho},
		{"help", "help [COMMAND]", "this text, or what a command takes", parseHelp},
		{"list", "list", "all commands, a line each", parseList},
		{"quit", "quit", "end", parseQuit},
		{"repeat", "repeat N [COMMAND…]", "run the command, or the next one, N times; -1 is for ever", parseRepeat},
		{"sleep", "sleep DURATION", "wait: 2s, 250ms, or nanoseconds", parseSleep},
	}
}

func parseEcho(_ *Parser, s *scanner) (*Command, error) {
	words, err := s.words()
	return &Command{name: "echo", run: func(_ context.Context, s *Session) error {
		return s.text("echo", strings.Join(words, " ")+"\n")
	}}, err
}

func parseHelp(p *Parser, s *scanner) (*Command, error) {
	words, err := s.words()
	if err != nil {
		return nil, err
	}
	text := ""
	switch len(words) {
	case 0:
		text = p.help()
	case 1:
		if text, err = p.helpOn(words[0]); err != nil {
			return nil, err
		}
	default:
		return nil, errors.New("help takes one command at most")
	}
	return &Command{name: "help", run: func(_ context.Context, s *Session) error { return s.text("help", text) }}, nil
}

func parseList(p *Parser, s *scanner) (*Command, error) {
	if s.skip() {
		return nil, errors.New("list takes no arguments")
	}
	return &Command{name: "list", run: func(_ context.Context, s *Session) error { return s.text("list", p.list()) }}, nil
}

func parseQuit(_ *Parser, s *scanner) (*Command, error) {
	if s.skip() {
		return nil, errors.New("quit takes no arguments")
	}
	return &Command{name: "quit", run: func(context.Context, *Session) error { return ErrQuit }}, nil
}

func parseRepeat(p *Parser, s *scanner) (*Command, error) {
	word, _, err := s.next()
	if err != nil {
		return nil, err
	}
	n, err := strconv.Atoi(word)
	if err != nil || n < 1 && n != -1 {
		return nil, fmt.Errorf("%q is not how often: a number from 1, or -1 for ever", word)
	}
	inner, err := p.parse(s)
	if err != nil {
		return nil, err
	}
	if inner == nil {
		return &Command{name: "repeat", prefix: true, run: func(_ context.Context, s *Session) error {
			s.times = n
			return nil
		}}, nil
	}
	return &Command{name: "repeat", run: func(ctx context.Context, s *Session) error { return s.repeat(ctx, inner, n) }}, nil
}

func parseSleep(_ *Parser, s *scanner) (*Command, error) {
	word, _, err := s.next()
	if err != nil {
		return nil, err
	}
	d, err := ParseDuration(word)
	if err != nil {
		return nil, err
	}
	if s.skip() {
		return nil, fmt.Errorf("%q is too much: sleep takes one duration", s.rest())
	}
	return &Command{name: "sleep", run: func(ctx context.Context, _ *Session) error {
		timer := time.NewTimer(d)
		defer timer.Stop()
		select {
		case <-timer.C:
			return nil
		case <-ctx.Done():
			return fmt.Errorf("sleep %s: %w", d, context.Cause(ctx))
		}
	}}, nil
}
