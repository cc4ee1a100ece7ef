package fmt

import (
	"reflect"
	"strconv"
	"time"
	"unicode/utf8"
	"unsafe"
)

// printer collects a text.
type printer struct {
	out     []byte
	wraps   bool // %w is a verb
	wrapped []error

	// Of the verb at hand.
	minus, zero, sharp bool
	width              int
}

// maxWidth bounds a width: a format is a constant, but a slip in one must not
// cost more than a line.
const maxWidth = 1 << 10

// format appends what format and a describe.
func (p *printer) format(format string, a []any) {
	next := 0
	for i := 0; i < len(format); {
		if format[i] != '%' {
			p.out = append(p.out, format[i])
			i++
			continue
		}
		i = p.flags(format, i+1)
		if i >= len(format) {
			p.out = append(p.out, "%!(NOVERB)"...)
			break
		}
		verb, size := utf8.DecodeRuneInString(format[i:])
		i += size
		switch {
		case verb == '%':
			p.out = append(p.out, '%')
		case next >= len(a):
			p.mistake(verb, "(MISSING)")
		default:
			p.verb(verb, a[next])
			next++
		}
	}
	if next < len(a) {
		p.out = append(p.out, "%!(EXTRA)"...)
	}
}

// flags reads flags and width from format[i:] on and returns where they end.
func (p *printer) flags(format string, i int) int {
	p.minus, p.zero, p.sharp, p.width = false, false, false, 0
	for ; i < len(format); i++ {
		switch format[i] {
		case '-':
			p.minus = true
			continue
		case '0':
			p.zero = true
			continue
		case '#':
			p.sharp = true
			continue
		}
		break
	}
	for ; i < len(format) && format[i] >= '0' && format[i] <= '9'; i++ {
		p.width = min(p.width*10+int(format[i]-'0'), maxWidth)
	}
	return i
}

// verb appends value as verb says.
func (p *printer) verb(verb rune, value any) {
	if verb == 'w' {
		err, ok := value.(error)
		if !ok || !p.wraps {
			p.mistake(verb, "(BADTYPE)")
			return
		}
		p.wrapped = append(p.wrapped, err)
		verb = 'v'
	}
	if value == nil {
		if verb == 'v' {
			p.pad("<nil>", false)
			return
		}
		p.mistake(verb, "(nil)")
		return
	}
	if text, ok := textOf(value); ok && (verb == 'v' || verb == 's' || verb == 'q' || verb == 'x') {
		p.text(verb, text)
		return
	}
	p.value(verb, value)
}

// textOf returns the text of a value that has one of its own. A nil pointer has
// none to ask for, and a value that panics over itself neither.
func textOf(value any) (text string, ok bool) {
	defer func() {
		if ok {
			return
		}
		if r := recover(); r != nil {
			text, ok = "<nil>", true
			if v := reflect.ValueOf(value); v.Kind() != reflect.Pointer || !v.IsNil() {
				panic(r)
			}
		}
	}()
	switch v := value.(type) {
	case error:
		text = v.Error()
	case time.Duration:
		text = v.String()
	default:
		return "", false
	}
	return text, true
}

// value appends a value that has no text of its own, or is not asked for it.
func (p *printer) value(verb rune, value any) {
	switch v := value.(type) {
	case []byte:
		if verb == 's' || verb == 'q' || verb == 'x' {
			p.text(verb, string(v))
			return
		}
		list(p, verb, v)
	case []string:
		list(p, verb, v)
	case []int:
		list(p, verb, v)
	case []uint32:
		list(p, verb, v)
	case []error:
		list(p, verb, v)
	case []any:
		list(p, verb, v)
	default:
		p.basic(verb, value)
	}
}

// list appends the elements of a slice.
func list[T any](p *printer, verb rune, values []T) {
	p.out = append(p.out, '[')
	for i, v := range values {
		if i > 0 {
			p.out = append(p.out, ' ')
		}
		p.verb(verb, v)
	}
	p.out = append(p.out, ']')
}

// basic appends a value by what it is, whatever the name of its type.
func (p *printer) basic(verb rune, value any) {
	switch v := reflect.ValueOf(value); v.Kind() {
	case reflect.String:
		p.text(verb, stringOf(&value))
	case reflect.Bool:
		if verb != 'v' && verb != 't' {
			p.mistake(verb, "(bool)")
			return
		}
		p.pad(strconv.FormatBool(v.Bool()), false)
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		if n := v.Int(); n < 0 {
			p.number(verb, true, -uint64(n))
		} else {
			p.number(verb, false, uint64(n))
		}
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64, reflect.Uintptr:
		p.number(verb, false, v.Uint())
	default:
		p.mistake(verb, "(BADTYPE)")
	}
}

// stringOf returns the string in value. It is Value.String of package reflect
// without what that says of other types, by their String methods: the second word
// of an interface points to a value that is no pointer.
func stringOf(value *any) string {
	return **(**string)(unsafe.Add(unsafe.Pointer(value), unsafe.Sizeof(uintptr(0))))
}

// text appends a text as verb says.
func (p *printer) text(verb rune, text string) {
	switch verb {
	case 's', 'v':
		p.pad(text, false)
	case 'q':
		if p.sharp && strconv.CanBackquote(text) {
			p.pad("`"+text+"`", false)
			return
		}
		p.pad(strconv.Quote(text), false)
	case 'x':
		const digits = "0123456789abcdef"
		hex := make([]byte, 0, 2*len(text)+2)
		if p.sharp && text != "" {
			hex = append(hex, "0x"...)
		}
		for i := range len(text) {
			hex = append(hex, digits[text[i]>>4], digits[text[i]&15])
		}
		p.pad(string(hex), false)
	default:
		p.mistake(verb, "(string)")
	}
}

// number appends a number as verb says.
func (p *printer) number(verb rune, negative bool, n uint64) {
	sign, digits := "", ""
	if negative {
		sign = "-"
	}
	switch verb {
	case 'v', 'd':
		digits = strconv.FormatUint(n, 10)
	case 'x':
		digits = strconv.FormatUint(n, 16)
		if p.sharp {
			sign += "0x"
		}
	case 'o':
		digits = strconv.FormatUint(n, 8)
		if p.sharp && n != 0 {
			sign += "0"
		}
	case 'c':
		r := rune(utf8.RuneError)
		if !negative && n <= utf8.MaxRune {
			r = rune(n)
		}
		p.pad(string(r), false)
		return
	case 'q':
		if negative || n > utf8.MaxRune {
			n = utf8.RuneError
		}
		p.pad(strconv.QuoteRune(rune(n)), false)
		return
	default:
		p.mistake(verb, "(int)")
		return
	}
	if p.zero && !p.minus {
		// Zeros stand between sign and digits and count as width.
		for len(sign)+len(digits) < p.width {
			digits = "0" + digits
		}
	}
	p.pad(sign+digits, true)
}

// pad appends text with the width of the verb at hand. Of numbers the zeros are
// there already.
func (p *printer) pad(text string, number bool) {
	fill := p.width - utf8.RuneCountInString(text)
	with := byte(' ')
	if p.zero && !p.minus && !number {
		with = '0'
	}
	if p.minus {
		p.out = append(p.out, text...)
	}
	for ; fill > 0; fill-- {
		p.out = append(p.out, with)
	}
	if !p.minus {
		p.out = append(p.out, text...)
	}
}

// mistake marks a mistake of the format.
func (p *printer) mistake(verb rune, what string) {
	p.out = append(p.out, "%!"...)
	p.out = utf8.AppendRune(p.out, verb)
	p.out = append(p.out, what...)
}
