package render

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
)

// JSON returns a message as one line of JSON, in protobuf's mapping with the
// names of the .proto files and numbers as numbers: bytes are base64, enums are
// names, fields are in the order of the .proto. Fields of value zero are there;
// messages and optional values that are not set are not.
func JSON(msg any) []byte {
	var b bytes.Buffer
	writeJSON(&b, reflect.ValueOf(msg))
	return b.Bytes()
}

func writeJSON(b *bytes.Buffer, v reflect.Value) {
	if v.Kind() == reflect.Pointer && v.IsNil() {
		b.WriteString("null")
		return
	}
	v = indirect(v)
	switch {
	case v.Kind() == reflect.Struct:
		writeObject(b, v)
	case v.Kind() == reflect.Map:
		writeMap(b, v)
	case isBytes(v.Type()):
		writeString(b, base64.StdEncoding.EncodeToString(v.Bytes()))
	case v.Kind() == reflect.Slice:
		b.WriteByte('[')
		for i := range v.Len() {
			separate(b, i)
			writeJSON(b, v.Index(i))
		}
		b.WriteByte(']')
	case v.Kind() == reflect.String:
		writeString(b, v.String())
	default:
		text := scalar(v)
		if _, err := strconv.ParseFloat(text, 64); err != nil && v.Kind() != reflect.Bool {
			writeString(b, text) // an enum's name
			return
		}
		b.WriteString(text)
	}
}

func writeObject(b *bytes.Buffer, v reflect.Value) {
	b.WriteByte('{')
	for i, m := range members(v) {
		separate(b, i)
		writeString(b, m.name)
		b.WriteByte(':')
		writeJSON(b, m.value)
	}
	b.WriteByte('}')
}

func writeMap(b *bytes.Buffer, v reflect.Value) {
	b.WriteByte('{')
	for i, key := range sortedKeys(v) {
		separate(b, i)
		writeString(b, key)
		b.WriteByte(':')
		writeJSON(b, v.MapIndex(reflect.ValueOf(key)))
	}
	b.WriteByte('}')
}

// sortedKeys returns the keys of a map; all maps of the API have strings.
func sortedKeys(v reflect.Value) []string {
	keys := map[string]bool{}
	for _, key := range v.MapKeys() {
		keys[key.String()] = true
	}
	return slices.Sorted(maps.Keys(keys))
}

func separate(b *bytes.Buffer, i int) {
	if i > 0 {
		b.WriteByte(',')
	}
}

// writeString writes text as JSON with nothing escaped that need not be.
func writeString(b *bytes.Buffer, text string) {
	encoder := json.NewEncoder(b)
	encoder.SetEscapeHTML(false)
	_ = encoder.Encode(text) // a string into a buffer
	b.Truncate(b.Len() - 1)  // its newline
}

// scalar returns a number, a truth value or an enum's name as text.
func scalar(v reflect.Value) string {
	if name, ok := v.Interface().(fmt.Stringer); ok {
		return name.String()
	}
	return fmt.Sprint(v.Interface())
}
