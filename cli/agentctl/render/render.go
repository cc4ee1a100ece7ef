// Package render shows messages of the agent: as text for people, in the manner
// of YAML, and as one line of JSON for programs. It does not write anywhere and
// knows nothing of calls; like package message it works by reflection, for
// tools.
package render

import (
	"reflect"

	"kata/cli/agentctl/message"
)

// member is a field with its value.
type member struct {
	name  string
	value reflect.Value
}

// members returns the fields of a message that have something to show: all but
// messages and optional values that are not there. Zero is a value.
func members(v reflect.Value) []member {
	var all []member
	for _, f := range message.Fields(v.Interface()) {
		value := v.Field(f.Index())
		if value.Kind() == reflect.Pointer && value.IsNil() {
			continue
		}
		all = append(all, member{f.Name, value})
	}
	return all
}

// indirect returns the struct or scalar behind a pointer, which is not nil.
func indirect(v reflect.Value) reflect.Value {
	if v.Kind() == reflect.Pointer {
		return v.Elem()
	}
	return v
}

func isBytes(t reflect.Type) bool {
	return t.Kind() == reflect.Slice && t.Elem().Kind() == reflect.Uint8
}

// isPlain reports whether a list's elements fit on one line.
func isPlain(t reflect.Type) bool {
	t = t.Elem()
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	return t.Kind() != reflect.Struct && !isBytes(t)
}
