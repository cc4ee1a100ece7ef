//go:build vm

package agentvm

import (
	"context"
	"math"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"kata/api/agentpb"
	"kata/api/ttrpc"
	"kata/test/pace"
)

// absurdities are values that make sense in few fields, by kind.
var absurdities = map[reflect.Kind]map[string]func(reflect.Value){
	reflect.String: {
		"a zero byte":  func(v reflect.Value) { v.SetString("a\x00b") },
		"70,000 bytes": func(v reflect.Value) { v.SetString(strings.Repeat("x", 70000)) },
	},
	reflect.Uint32: {"the largest": func(v reflect.Value) { v.SetUint(math.MaxUint32) }},
	reflect.Uint64: {"the largest": func(v reflect.Value) { v.SetUint(math.MaxUint64) }},
	reflect.Int32: {
		"the smallest": func(v reflect.Value) { v.SetInt(math.MinInt32) },
		"the largest":  func(v reflect.Value) { v.SetInt(math.MaxInt32) },
	},
	reflect.Int64: {
		"the smallest": func(v reflect.Value) { v.SetInt(math.MinInt64) },
		"the largest":  func(v reflect.Value) { v.SetInt(math.MaxInt64) },
	},
}

// anything are fields in which a zero byte does no harm: nobody looks at them, or
// they are for others to judge.
var anything = []string{
	"service", "Version", "Username", "ApparmorProfile", "SelinuxLabel", "MountLabel", "Annotations", "dummy",
	"Bounding", "Effective", "Inheritable", "Permitted", "Ambient", // unknown ones are ignored, as by runc
	"Network.Priorities[0].Name", // of cgroup v1
}

// attempt is a request with one absurd field.
type attempt struct {
	method Method
	path   []string // names of the fields that lead to it
	what   string
	req    ttrpc.Message
}

// attempts returns a request for each field of a method's and each absurd value.
func attempts(m Method) []attempt {
	var all []attempt
	model := func() ttrpc.Message {
		if req := sensible(m.Name); req != nil {
			return req
		}
		return m.Request()
	}
	var walk func(t reflect.Type, path []string, reach func(ttrpc.Message) reflect.Value)
	walk = func(t reflect.Type, path []string, reach func(ttrpc.Message) reflect.Value) {
		for _, field := range fieldsOf(t) {
			at := append(slices.Clip(path), field.name)
			get := func(req ttrpc.Message) reflect.Value { return reach(req).Field(field.index) }
			add := func(what string, set func(reflect.Value)) {
				req := model()
				set(get(req))
				all = append(all, attempt{m, at, what, req})
			}
			ft := t.Field(field.index).Type
			for what, set := range absurdities[ft.Kind()] {
				add(what, set)
			}
			switch {
			case ft.Kind() == reflect.Pointer && ft.Elem().Kind() == reflect.Struct && len(path) < 6:
				add("nothing in it", func(v reflect.Value) { v.Set(reflect.New(ft.Elem())) })
				walk(ft.Elem(), at, func(req ttrpc.Message) reflect.Value { return made(get(req)) })
			case ft.Kind() == reflect.Slice && ft.Elem().Kind() == reflect.Pointer && len(path) < 6:
				add("one with nothing in it", func(v reflect.Value) { v.Set(reflect.Append(v, reflect.New(ft.Elem().Elem()))) })
				at[len(at)-1] += "[0]"
				walk(ft.Elem().Elem(), at, func(req ttrpc.Message) reflect.Value {
					list := get(req)
					if list.Len() == 0 {
						list.Set(reflect.MakeSlice(ft, 1, 1))
					}
					return made(list.Index(0))
				})
			case ft.Kind() == reflect.Slice && ft.Elem().Kind() == reflect.String:
				add("a zero byte", func(v reflect.Value) { v.Set(reflect.ValueOf([]string{"a\x00b"})) })
			case ft.Kind() == reflect.Map && ft.Elem().Kind() == reflect.String:
				add("a zero byte", func(v reflect.Value) { v.Set(reflect.ValueOf(map[string]string{"a\x00b": "a\x00b"})) })
			}
		}
	}
	walk(reflect.TypeOf(m.Request()).Elem(), nil, func(req ttrpc.Message) reflect.Value { return reflect.ValueOf(req).Elem() })
	return all
}

// made returns what a pointer points to, making it.
func made(v reflect.Value) reflect.Value {
	if v.IsNil() {
		v.Set(reflect.New(v.Type().Elem()))
	}
	return v.Elem()
}

// TestAbsurdFieldsAreNamed sends, for every field of every request, sensible
// requests in which that field is absurd. An answer of InvalidArgument has to
// name a field on the way to it, or one that was missing from the beginning; zero
// bytes must be refused; and nothing may be the agent's own fault.
func TestAbsurdFieldsAreNamed(t *testing.T) {
	v := Boot(t, Options{}).Sandbox()
	v.Run(victim, Spec(Shell("cat; exec sleep 100000")), Streams{})
	client := v.Connect()
	for _, m := range Methods() {
		if m.Name == "DestroySandbox" {
			continue
		}
		for _, a := range attempts(m) {
			ctx, cancel := context.WithTimeout(t.Context(), pace.Of(fuzzPatience))
			err := m.Call(ctx, client, a.req)
			cancel()
			if problem := a.judge(err); problem != "" {
				t.Errorf("%s with %s in %s: %s: %.300v (%v)", m.Name, a.what, strings.Join(a.path, "."), problem, err, ttrpc.CodeOf(err))
			}
			if m.Name == "CreateContainer" && err == nil {
				_, _ = v.Agent.RemoveContainer(t.Context(), &agentpb.RemoveContainerRequest{ContainerId: "c1", Timeout: uint32(waitLimit / time.Second)})
			}
		}
	}
	v.Alive()
}

// judge says what is wrong with an answer.
func (a *attempt) judge(err error) string {
	path := strings.Join(a.path, ".")
	free := slices.ContainsFunc(anything, func(field string) bool { return strings.HasSuffix(path, field) })
	switch ttrpc.CodeOf(err) {
	case ttrpc.Internal, ttrpc.Unknown:
		return "it is said to be the agent's fault"
	case ttrpc.OK:
		if a.what == "a zero byte" && !free {
			return "it is taken"
		}
	case ttrpc.InvalidArgument:
		said := plain(err.Error())
		named := slices.ContainsFunc(a.path, func(field string) bool {
			name, _, _ := strings.Cut(field, "[")
			return strings.Contains(said, plain(name))
		})
		if !named && !strings.Contains(said, "is missing") && a.what != "nothing in it" {
			return "no field is named"
		}
	}
	return ""
}

// plain makes names alike however they are written.
func plain(name string) string { return strings.ToLower(strings.ReplaceAll(name, "_", "")) }
