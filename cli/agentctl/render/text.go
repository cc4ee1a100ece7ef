package render

import (
	"encoding/hex"
	"reflect"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Text returns a message as lines of text, each with a newline at its end. A
// message whose only field is text, output of a container say, is that text
// and nothing else; one without fields is nothing.
func Text(msg any) string {
	v := indirect(reflect.ValueOf(msg))
	all := members(v)
	if len(all) == 1 {
		if text, ok := document(all[0].value); ok {
			return endLine(text)
		}
	}
	var w writer
	w.members(all, 0)
	return w.String()
}

// document returns the value of a field that is a text by itself.
func document(v reflect.Value) (string, bool) {
	switch {
	case isBytes(v.Type()):
		return bytesText(v.Bytes()), true
	case v.Kind() == reflect.String && strings.Contains(v.String(), "\n"):
		return v.String(), true
	}
	return "", false
}

func endLine(text string) string {
	if text == "" || strings.HasSuffix(text, "\n") {
		return text
	}
	return text + "\n"
}

// bytesText returns bytes that are text as they are, others as a dump. What
// would move the cursor of a terminal is no text.
func bytesText(data []byte) string {
	if !utf8.Valid(data) || strings.ContainsFunc(string(data), isControl) {
		return hex.Dump(data)
	}
	return string(data)
}

func isControl(r rune) bool {
	return unicode.IsControl(r) && r != '\n' && r != '\t' && r != '\r'
}

// writer collects the lines.
type writer struct{ strings.Builder }

func (w *writer) members(all []member, indent int) {
	for _, m := range all {
		w.pad(indent)
		w.field(m, indent)
	}
}

func (w *writer) pad(indent int) { w.WriteString(strings.Repeat("  ", indent)) }

// field writes one field, whose indentation is there already.
func (w *writer) field(m member, indent int) {
	w.WriteString(m.name + ":")
	v := indirect(m.value)
	switch {
	case isBytes(v.Type()):
		w.block(bytesText(v.Bytes()), indent+1)
	case v.Kind() == reflect.Struct:
		all := members(v)
		if len(all) == 0 {
			w.WriteString(" {}")
		}
		w.WriteByte('\n')
		w.members(all, indent+1)
	case v.Kind() == reflect.Map:
		w.entries(v, indent+1)
	case v.Kind() == reflect.Slice && v.Len() > 0 && !isPlain(v.Type()):
		w.WriteByte('\n')
		for i := range v.Len() {
			w.element(v.Index(i), indent+1)
		}
	case v.Kind() == reflect.Slice:
		w.WriteString(" [" + strings.Join(plainElements(v), ", ") + "]\n")
	case v.Kind() == reflect.String && strings.Contains(v.String(), "\n"):
		w.block(v.String(), indent+1)
	default:
		w.WriteString(" " + plain(v) + "\n")
	}
}

func (w *writer) entries(m reflect.Value, indent int) {
	if m.Len() == 0 {
		w.WriteString(" {}")
	}
	w.WriteByte('\n')
	for _, key := range sortedKeys(m) {
		w.pad(indent)
		w.field(member{plainText(key), m.MapIndex(reflect.ValueOf(key))}, indent)
	}
}

// element writes an element of a list: a message, or bytes.
func (w *writer) element(v reflect.Value, indent int) {
	w.pad(indent)
	w.WriteString("- ")
	v = indirect(v)
	if v.Kind() != reflect.Struct {
		w.WriteString(strconv.Quote(string(v.Bytes())) + "\n")
		return
	}
	all := members(v)
	if len(all) == 0 {
		w.WriteString("{}\n")
		return
	}
	w.field(all[0], indent+1)
	w.members(all[1:], indent+1)
}

// block writes text of several lines below its name.
func (w *writer) block(text string, indent int) {
	if !strings.Contains(text, "\n") {
		w.WriteString(" " + plainText(text) + "\n")
		return
	}
	w.WriteString(" |\n")
	for line := range strings.Lines(text) {
		w.pad(indent)
		w.WriteString(endLine(line))
	}
}

func plainElements(v reflect.Value) []string {
	var all []string
	for i := range v.Len() {
		all = append(all, plain(indirect(v.Index(i))))
	}
	return all
}

func plain(v reflect.Value) string {
	if v.Kind() == reflect.String {
		return plainText(v.String())
	}
	return scalar(v)
}

// plainText returns text as it is where that cannot be mistaken, else quoted.
func plainText(text string) string {
	odd := func(r rune) bool { return !unicode.IsPrint(r) || r == '"' || r == ',' }
	if text == "" || strings.TrimSpace(text) != text || strings.ContainsFunc(text, odd) {
		return strconv.Quote(text)
	}
	return text
}
