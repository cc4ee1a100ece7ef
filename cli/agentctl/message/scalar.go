package message

import (
	"encoding/base64"
	"errors"
	"fmt"
	"reflect"
	"strconv"
)

// setText sets v, a scalar or an optional one, from text. Numbers may have a
// base (0x1f, 0644).
func setText(v reflect.Value, text string) error {
	if v.Kind() == reflect.Pointer {
		target := reflect.New(v.Type().Elem())
		if err := setText(target.Elem(), text); err != nil {
			return err
		}
		v.Set(target)
		return nil
	}
	switch v.Kind() {
	case reflect.String:
		v.SetString(text)
	case reflect.Bool:
		b, err := strconv.ParseBool(text)
		if err != nil {
			return fmt.Errorf("%q is neither true nor false", text)
		}
		v.SetBool(b)
	case reflect.Int32, reflect.Int64:
		n, err := parseInt(v.Type(), text)
		if err != nil {
			return err
		}
		v.SetInt(n)
	case reflect.Uint32, reflect.Uint64:
		n, err := strconv.ParseUint(text, 0, v.Type().Bits())
		if err != nil {
			return notNumber(v.Type(), text, err)
		}
		v.SetUint(n)
	case reflect.Float32, reflect.Float64:
		f, err := strconv.ParseFloat(text, v.Type().Bits())
		if err != nil {
			return notNumber(v.Type(), text, err)
		}
		v.SetFloat(f)
	default:
		return fmt.Errorf("a %s is written as JSON, not as %q", typeName(v.Type()), text)
	}
	return nil
}

func parseInt(t reflect.Type, text string) (int64, error) {
	n, err := strconv.ParseInt(text, 0, t.Bits())
	switch {
	case err == nil:
		return n, nil
	case isEnum(t):
		return enumValue(t, text)
	}
	return 0, notNumber(t, text, err)
}

func notNumber(t reflect.Type, text string, err error) error {
	if errors.Is(err, strconv.ErrRange) {
		return fmt.Errorf("%s is out of the range of %s", text, t.Kind())
	}
	return fmt.Errorf("%q is not a number (%s)", text, t.Kind())
}

// fromBase64 accepts both alphabets, with and without padding, as protobuf's
// JSON mapping asks.
func fromBase64(text string) ([]byte, error) {
	for _, encoding := range []*base64.Encoding{
		base64.StdEncoding, base64.URLEncoding, base64.RawStdEncoding, base64.RawURLEncoding,
	} {
		if data, err := encoding.DecodeString(text); err == nil {
			return data, nil
		}
	}
	return nil, fmt.Errorf("%q is not base64, which JSON carries bytes in", text)
}
