package log

import (
	"strconv"
	"time"
	"unicode/utf8"

	"kata/lib/fmt"
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
	}
	return appendString(b, fmt.Sprint(v))
}

// appendTime appends a time, in microseconds since 1970, as RFC 3339 has it. The
// time package's own formats come with all others, and with time zones: 40 KB.
func appendTime(b []byte, micro int64) []byte {
	const day = 24 * 60 * 60 * 1e6
	days, rest := micro/day, micro%day
	if rest < 0 {
		days, rest = days-1, rest+day
	}
	// Years begin in March here, so that a leap day is the last one. 719468 days
	// lie between the first of March of the year 0 and 1970, 146097 days are 400
	// years; five months from March or August on have 153 days.
	days += 719468
	era := days / 146097
	if days < 0 {
		era = (days - 146096) / 146097
	}
	ofEra := days - era*146097
	year := (ofEra - ofEra/1460 + ofEra/36524 - ofEra/146096) / 365
	ofYear := ofEra - (365*year + year/4 - year/100)
	month := (5*ofYear + 2) / 153
	ofMonth := ofYear - (153*month+2)/5
	if year += era * 400; month >= 10 {
		year, month = year+1, month-12
	}
	for _, part := range [...]struct {
		value  int64
		digits int
		after  byte
	}{
		{year, 4, '-'}, {month + 3, 2, '-'}, {ofMonth + 1, 2, 'T'},
		{rest / 3600e6, 2, ':'}, {rest / 60e6 % 60, 2, ':'}, {rest / 1e6 % 60, 2, '.'}, {rest % 1e6, 6, 'Z'},
	} {
		for unit := pow10(part.digits - 1); unit > 0; unit /= 10 {
			b = append(b, byte('0'+part.value/unit%10))
		}
		b = append(b, part.after)
	}
	return b
}

// pow10 returns 10 to the power of n.
func pow10(n int) int64 {
	p := int64(1)
	for range n {
		p *= 10
	}
	return p
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
