// Package iptables reads and writes the packet filter of the pod's network
// namespace, in the text format of iptables-save(8) and iptables-restore(8),
// over the socket options of the kernel's xtables. No iptables program is needed.
// The guest's helper kata-guest-iptables is made of it.
//
// A text is read completely, and checked against what the kernel has, before
// the first table is replaced; a table that the kernel refuses nevertheless
// brings those before it back. Each table that the text names is replaced as a
// whole, at one moment; others stay as they are.
//
// The matches and targets known by name are in the tables of matches.go and
// targets.go. What the kernel holds beyond those, put there by a container's own
// iptables, is printed as the bytes it is, in an option of ours (rawOption), so
// that a text never says less than is there and can be given back; so is what
// has no text with the meaning it has. The rules of nftables, another filter of
// the kernel's, are not seen, just as iptables-legacy does not see them.
package iptables

import (
	"errors"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// RefusedError says that the kernel refused a table, which it does without
// saying why.
type RefusedError struct {
	Table string
	Err   error
}

func (e *RefusedError) Error() string {
	return "the kernel refuses the table " + e.Table + ": " + e.Err.Error()
}

func (e *RefusedError) Unwrap() error { return e.Err }

// IsTextError reports whether an error of Restore is about the text: it is wrong,
// or asks for what this kernel does not have.
func IsTextError(err error) bool {
	if syntax := (*SyntaxError)(nil); errors.As(err, &syntax) {
		return true
	}
	refused := (*RefusedError)(nil)
	if !errors.As(err, &refused) {
		return false
	}
	for _, theirs := range [...]error{unix.EINVAL, unix.ENOENT, unix.ELOOP, unix.EOPNOTSUPP, unix.EPROTONOSUPPORT, ErrNoTable} {
		if errors.Is(err, theirs) {
			return true
		}
	}
	return false
}

// Save returns the tables in use, as iptables-save(8) prints them but for its
// comments. None is in use, and the text empty, before somebody has asked for
// one.
func Save(f Family) ([]byte, error) {
	names, err := os.ReadFile(f.layout().list)
	if errors.Is(err, os.ErrNotExist) {
		return nil, ErrNoTable
	} else if err != nil {
		return nil, err
	}
	s, err := openSocket(f)
	if err != nil {
		return nil, err
	}
	defer s.close()
	p := &printer{family: f}
	for _, name := range strings.Fields(string(names)) {
		b, err := s.read(name)
		if err != nil {
			return nil, wrong("read the table "+name, "", err.Error())
		}
		t, err := b.decode(f)
		if err != nil {
			return nil, err
		}
		if err := p.table(t); err != nil {
			return nil, err
		}
	}
	return p.text, nil
}

// Restore replaces the tables that a text names, as iptables-restore(8) does
// without options: counters begin at zero, but for those of built-in chains
// that the text does not name, and of rules with -c. A text that is wrong is a
// *SyntaxError, one that the kernel does not take a *RefusedError; in both
// cases nothing has changed.
func Restore(f Family, text []byte) error {
	p, err := parse(f, text)
	if err != nil {
		return err
	}
	if len(p.tables) == 0 {
		return nil
	}
	s, err := openSocket(f)
	if err != nil {
		return err
	}
	defer s.close()
	if err := p.known(s); err != nil {
		return err
	}
	var done []replaced
	for _, t := range p.tables {
		r, err := s.restore(t)
		if r.blob != nil {
			done = append(done, r)
		}
		if err == nil {
			continue
		}
		for i := len(done) - 1; i >= 0; i-- {
			err = errors.Join(err, s.undo(done[i]))
		}
		return err
	}
	return nil
}

// known checks that the kernel has what a text asks for.
func (p *parser) known(s *socket) error {
	var first *SyntaxError
	for use, line := range p.used {
		if !s.has(use[:2] == "-j", use[3:], use[2]) && (first == nil || line < first.Line) {
			first = &SyntaxError{line, wrong(use[:2], use[3:], "this kernel does not have it").Error()}
		}
	}
	if first != nil {
		return first
	}
	for _, t := range p.tables {
		b, err := s.read(t.name)
		if err != nil {
			return &RefusedError{t.name, err}
		}
		var ours uint32
		for _, c := range t.chains {
			if c.hook >= 0 {
				ours |= 1 << c.hook
			}
		}
		if ours != b.validHooks {
			return &RefusedError{t.name, problem("it has other built-in chains")}
		}
	}
	return nil
}

// replaced is a table that was replaced, with what its entries had counted.
type replaced struct {
	*blob
	counters []byte
}

// restore replaces one table; without a blob in what it returns, it has not.
func (s *socket) restore(t *table) (replaced, error) {
	var err error
	for range attempts {
		var old *blob
		if old, err = s.read(t.name); err != nil {
			break
		}
		if err = t.keep(old); err != nil {
			break
		}
		b, counters := t.encode()
		var counted []byte
		if counted, err = s.replace(b, old.number); err == nil {
			return replaced{old, counted}, s.count(t.name, counters)
		}
		if !errors.Is(err, unix.EAGAIN) {
			break
		}
	}
	return replaced{}, &RefusedError{t.name, err}
}

// keep takes over the policies, and what they counted, of the chains that the
// text does not name.
func (t *table) keep(old *blob) error {
	was, err := old.decode(t.family)
	for _, c := range t.chains {
		if c.hook < 0 || c.stated {
			continue
		}
		if err != nil {
			return err
		}
		for _, o := range was.chains {
			if c.hook == o.hook {
				c.policy, c.counters = o.policy, o.counters
			}
		}
	}
	return nil
}

// count sets the counters of a table that has just been replaced, if there are
// any. Another process may have replaced it since; then they are not its.
func (s *socket) count(table string, counters []byte) error {
	any := byte(0)
	for _, v := range counters {
		any |= v
	}
	if any == 0 {
		return nil
	}
	if err := s.add(table, counters); err != nil && !errors.Is(err, unix.EINVAL) {
		return err
	}
	return nil
}

// undo puts a table back.
func (s *socket) undo(r replaced) error {
	for range attempts {
		now, err := s.read(r.name)
		if err != nil {
			return err
		}
		if _, err = s.replace(r.blob, now.number); err == nil {
			return s.count(r.name, r.counters)
		} else if !errors.Is(err, unix.EAGAIN) {
			return wrong("put the table "+r.name+" back", "", err.Error())
		}
	}
	return wrong("put the table "+r.name+" back", "", "it changes all the time")
}
