package message

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"reflect"
	"slices"
	"strconv"
)

// DecodeJSON sets the fields of a message, a pointer to a generated struct, from
// a JSON object in protobuf's mapping: bytes are base64, 64-bit numbers may be
// strings, enums are names or numbers, null leaves a field alone. Fields that
// the object does not name keep their values. An error names the field.
func DecodeJSON(data []byte, message any) error {
	value, err := parseJSON(data)
	if err != nil {
		return err
	}
	return setJSON(reflect.ValueOf(message).Elem(), value)
}

// parseJSON reads exactly one JSON value.
func parseJSON(data []byte) (any, error) {
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	var value any
	if err := d.Decode(&value); err != nil {
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			err = errors.New("it ends too early")
		}
		return nil, fmt.Errorf("JSON: %w", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("JSON: there is something after the value, at byte %d", d.InputOffset())
	}
	return value, nil
}

// setJSON sets v from a decoded JSON value.
func setJSON(v reflect.Value, value any) error {
	t := v.Type()
	switch {
	case value == nil:
		return nil
	case isMessage(t):
		if v.IsNil() {
			v.Set(reflect.New(t.Elem()))
		}
		return setJSON(v.Elem(), value)
	case t.Kind() == reflect.Struct:
		return setObject(v, value)
	case t.Kind() == reflect.Map:
		return setMap(v, value)
	case isBytes(t):
		return setBytes(v, value)
	case t.Kind() == reflect.Slice:
		return setList(v, value)
	}
	switch value := value.(type) {
	case string:
		if structType(t).Kind() != reflect.Bool {
			return setText(v, value)
		}
	case json.Number:
		if structType(t).Kind() == reflect.String {
			return fmt.Errorf("%s is a number, not a string", value)
		}
		if structType(t).Kind() != reflect.Bool {
			return setText(v, value.String())
		}
	case bool:
		if structType(t).Kind() == reflect.Bool {
			return setText(v, strconv.FormatBool(value))
		}
	}
	return mismatch(t, value)
}

func mismatch(t reflect.Type, value any) error {
	kind := "an object"
	switch value.(type) {
	case []any:
		kind = "a list"
	case string:
		kind = "a string"
	case json.Number:
		kind = "a number"
	case bool:
		kind = "true or false"
	}
	return fmt.Errorf("%s cannot be %s", typeName(t), kind)
}

func setObject(v reflect.Value, value any) error {
	object, ok := value.(map[string]any)
	if !ok {
		return fmt.Errorf("%s is a message, which is a JSON object", v.Type().Name())
	}
	for _, name := range slices.Sorted(maps.Keys(object)) {
		f, err := fieldNamed(v.Type(), name)
		if err != nil {
			return err
		}
		if err := setJSON(v.Field(f.index), object[name]); err != nil {
			return fmt.Errorf("%s: %w", f.Name, err)
		}
	}
	return nil
}

func setMap(v reflect.Value, value any) error {
	object, ok := value.(map[string]any)
	if !ok {
		return mismatch(v.Type(), value)
	}
	out := reflect.MakeMapWithSize(v.Type(), len(object))
	for _, name := range slices.Sorted(maps.Keys(object)) {
		key, element := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
		if err := setText(key, name); err != nil {
			return err
		}
		if err := setJSON(element, object[name]); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		out.SetMapIndex(key, element)
	}
	v.Set(out)
	return nil
}

func setBytes(v reflect.Value, value any) error {
	text, ok := value.(string)
	if !ok {
		return mismatch(v.Type(), value)
	}
	data, err := fromBase64(text)
	if err != nil {
		return err
	}
	v.SetBytes(data)
	return nil
}

func setList(v reflect.Value, value any) error {
	list, ok := value.([]any)
	if !ok {
		return mismatch(v.Type(), value)
	}
	out := reflect.MakeSlice(v.Type(), len(list), len(list))
	for i, element := range list {
		if element == nil {
			return fmt.Errorf("element %d is null", i)
		}
		if err := setJSON(out.Index(i), element); err != nil {
			return fmt.Errorf("element %d: %w", i, err)
		}
	}
	v.Set(out)
	return nil
}
