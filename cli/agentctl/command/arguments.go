package command

import (
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"kata/cli/agentctl/message"
)

// Keys that are no fields of a request.
const (
	keySpec = "spec" // an OCI config.json
	keyArgs = "args" // the command line of a process
)

// Names of fields that a session remembers.
const (
	fieldContainer = "container_id"
	fieldSandbox   = "sandbox_id"
	fieldExec      = "exec_id"
)

// arguments are those of a call, checked as far as that goes without files.
type arguments struct {
	document string // a JSON object, or ""
	file     string // a file that holds one, or ""
	pairs    []pair // fields, in the order given
	spec     string // value of spec=, or ""
	args     []string
	sandbox  string // sid= of a call that has no such field
}

type pair struct{ key, value string }

// has reports whether a pair sets the field, or a field of it.
func (a *arguments) has(field string) bool {
	for _, p := range a.pairs {
		if first, _, _ := strings.Cut(p.key, "."); first == field {
			return true
		}
	}
	return false
}

// none reports whether there are no arguments but ids.
func (a *arguments) none() bool {
	return a.document == "" && a.file == "" && len(a.pairs) == 0
}

// aliases returns upstream's short keys, and what they are called here.
func aliases() map[string]string {
	return map[string]string{
		"cid": fieldContainer, "sid": fieldSandbox, "list_format": "format", "secs": "Sec", "usecs": "Usec",
	}
}

// parseArguments reads the words after the name of a call.
func parseArguments(m *method, words []string) (*arguments, error) {
	a := &arguments{}
	for _, word := range words {
		if err := a.add(m, word); err != nil {
			return nil, err
		}
	}
	return a, a.check(m)
}

func (a *arguments) add(m *method, word string) error {
	key, value, isPair := strings.Cut(word, "=")
	text, isJSON := strings.CutPrefix(word, jsonPrefix)
	switch isFile := isPath(word); {
	case (isJSON || isFile) && (a.document != "" || a.file != ""):
		return fmt.Errorf("%s: there is a request already; one is enough", word)
	case isJSON && text == "":
		return errors.New("nothing follows json://")
	case isJSON:
		a.document = text
		return nil
	case isFile:
		a.file = word
		return nil
	case !isPair || key == "":
		return fmt.Errorf("%q is neither key=value, nor json://{…}, nor a file (/path, ./path, name.json or file:///path)", word)
	}
	return a.addPair(m, key, value)
}

// isPath reports whether a word is meant to be a file: a name alone is not, unless
// it ends in .json.
func isPath(word string) bool {
	if strings.HasSuffix(word, ".json") && !strings.Contains(word, "=") {
		return true
	}
	for _, prefix := range []string{"/", "./", "../", "file://"} {
		if strings.HasPrefix(word, prefix) {
			return true
		}
	}
	return false
}

func (a *arguments) addPair(m *method, key, value string) error {
	name := key
	if long, ok := aliases()[key]; ok && !m.hasField(key) {
		name = long
	}
	name, isField := m.canonical(name)
	switch {
	case isField:
		if name == "signal" {
			number, err := signalNumber(value)
			if err != nil {
				return err
			}
			value = number
		}
		a.pairs = append(a.pairs, pair{name, value})
	case name == fieldSandbox && key == "sid":
		a.sandbox = value
	case key == "cid": // upstream's tool takes it everywhere
	case key == keySpec && m.takes(keySpec):
		if value == "" {
			return errors.New("spec: it names no file")
		}
		a.spec = value
	case key == keyArgs && m.takes(keyArgs):
		words, err := (&scanner{line: value}).words()
		if err != nil {
			return fmt.Errorf("args: %w", err)
		}
		if len(words) == 0 {
			return errors.New("args: it names no program")
		}
		a.args = words
	default:
		return m.unknownKey(key)
	}
	return nil
}

// takes reports whether a call takes a key that is no field.
func (m *method) takes(key string) bool {
	switch m.name {
	case "CreateContainer", "ExecProcess":
		return key == keySpec || key == keyArgs
	case "UpdateContainer":
		return key == keySpec
	}
	return false
}

// keys returns all keys of a call: fields, then short ones.
func (m *method) keys() []string {
	var keys []string
	for _, f := range m.desc.Request.Fields() {
		keys = append(keys, f.Name)
	}
	for _, special := range []string{keySpec, keyArgs} {
		if m.takes(special) {
			keys = append(keys, special)
		}
	}
	for short, long := range aliases() {
		if m.hasField(long) {
			keys = append(keys, short)
		}
	}
	return keys
}

func (m *method) hasField(name string) bool {
	_, ok := m.canonical(name)
	return ok
}

// canonical returns a path of fields with its first name as in the .proto, and
// whether the call has that field.
func (m *method) canonical(path string) (string, bool) {
	first, rest, nested := strings.Cut(path, ".")
	for _, f := range m.desc.Request.Fields() {
		if f.Is(first) && nested {
			return f.Name + "." + rest, true
		}
		if f.Is(first) {
			return f.Name, true
		}
	}
	return path, false
}

func (m *method) unknownKey(key string) error {
	keys := m.keys()
	if meant := suggest(key, keys); meant != "" {
		return fmt.Errorf("there is no key %q; did you mean %s?", key, meant)
	}
	if len(keys) == 0 {
		return fmt.Errorf("there is no key %q: the call takes none", key)
	}
	return fmt.Errorf("there is no key %q, only %s", key, strings.Join(keys, ", "))
}

// check fills a request that is never sent, to find what is wrong early.
func (a *arguments) check(m *method) error {
	request := m.newRequest()
	if a.document != "" {
		if err := request.DecodeJSON([]byte(a.document)); err != nil {
			return err
		}
	}
	if a.spec != "" {
		if _, err := specPath(a.spec); err != nil {
			return fmt.Errorf("spec: %w", err)
		}
	}
	assigner := message.NewAssigner(request, func(string) ([]byte, error) { return nil, nil })
	for _, p := range a.pairs {
		if err := assigner.Set(p.key, p.value); err != nil {
			return err
		}
	}
	return nil
}

// specPath returns the file that the value of spec= names.
func specPath(value string) (string, error) {
	if strings.Contains(value, "://") {
		return message.FilePath(value)
	}
	return filepath.Clean(value), nil
}

// signalNumber turns SIGTERM, TERM, term or RTMIN+1 into a number; numbers stay
// what they are.
func signalNumber(text string) (string, error) {
	if _, err := strconv.ParseUint(text, 0, 32); err == nil {
		return text, nil
	}
	name := strings.TrimPrefix(strings.ToUpper(text), "SIG")
	if n := unix.SignalNum("SIG" + name); n != 0 {
		return strconv.Itoa(int(n)), nil
	}
	// As the kernel has them: the C library of a container reserves the first two.
	const first, last = 32, 64
	base, rest := first, strings.TrimPrefix(name, "RTMIN")
	if strings.HasPrefix(name, "RTMAX") {
		base, rest = last, strings.TrimPrefix(name, "RTMAX")
	}
	n, err := strconv.Atoi(rest)
	if rest == "" {
		n, err = 0, nil
	}
	if rest == name || err != nil || base+n < first || base+n > last {
		return "", fmt.Errorf("signal: %q is no signal, as TERM, SIGUSR1 or 9", text)
	}
	return strconv.Itoa(base + n), nil
}
