package log

import (
	"strconv"
	"time"
	"unicode/utf8"

	"kata/api/fmt"
)

// badKey stands in for a key that is not a string or has no value, as in slog.
const badKey = "!BADKEY"

// appendPairs appends ,"key":value for each pair of args until the line is
// as long as a line may be; the rest is dropped and said to be.
func appendPairs(b []byte, args []any) []byte {
	for len(args) > 0 {
		if len(b) > maxLine {
			return append(b, `,"truncated":true`...)
		}
		key, ok := args[0].(string)
		if !ok || len(args) == 1 {
			b = append(b, `,"`+badKey+`":`...)
			b = appendValue(b, args[0])
			args = args[1:]
			continue
		}
		b = append(b, ',')
		b = appendString(b, key)
		b = append(b, ':')
		b = appendValue(b, args[1])
		args = args[2:]
	}
	return b
}

// appendValue appends one value: numbers and booleans as JSON has them,
// everything else as a string.
func appendValue(b []byte, v any) []byte {
	switch v := v.(type) {
	case nil:
		return append(b, "null"...)
	case string:
		return appendString(b, v)
	case []byte:
		return appendString(b, string(v))
	case error:
		return appendString(b, v.Error())
	case bool:
		return strconv.AppendBool(b, v)
	case int:
		return strconv.AppendInt(b, int64(v), 10)
	case int32:
		return strconv.AppendInt(b, int64(v), 10)
	case int64:
		return strconv.AppendInt(b, v, 10)
	case uint:
		return strconv.AppendUint(b, uint64(v), 10)
	case uint32:
		return strconv.AppendUint(b, uint64(v), 10)
	case uint64:
		return strconv.AppendUint(b, v, 10)
	case time.Duration:
		return appendString(b, v.String())
	case fmt.Stringer:
		return appendString(b, v.String())
	}
	return appendString(b, fmt.Sprint(v))
}

const hexDigits = "0123456789abcdef"

// appendString appends s as a JSON string (RFC 8259 section 7). Bytes that are
// not UTF-8 become U+FFFD, and a string too long for a line is cut.
func appendString(b []byte, s string) []byte {
	if len(s) > maxLine {
		s = s[:maxLine] + "…"
	}
	b = append(b, '"')
	for i := 0; i < len(s); {
		c := s[i]
		if c >= utf8.RuneSelf {
			r, size := utf8.DecodeRuneInString(s[i:])
			if r == utf8.RuneError && size == 1 {
				b = append(b, `\ufffd`...)
			} else {
				b = append(b, s[i:i+size]...)
			}
			i += size
			continue
		}
		i++
		switch {
		case c == '"' || c == '\\':
			b = append(b, '\\', c)
		case c == '\n':
			b = append(b, `\n`...)
		case c == '\t':
			b = append(b, `\t`...)
		case c == '\r':
			b = append(b, `\r`...)
		case c < 0x20 || c == 0x7f:
			b = append(b, `\u00`...)
			b = append(b, hexDigits[c>>4], hexDigits[c&15])
		default:
			b = append(b, c)
		}
	}
	return append(b, '"')
}
