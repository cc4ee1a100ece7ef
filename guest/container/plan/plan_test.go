package plan

import (
	"reflect"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// fill gives everything in v a value that nothing else has.
func fill(v reflect.Value, n *int) {
	*n++
	switch v.Kind() {
	case reflect.String:
		v.SetString(strconv.Itoa(*n))
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int, reflect.Int32, reflect.Int64:
		v.SetInt(int64(-*n))
	case reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		v.SetUint(uint64(*n) % 251)
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 2, 2))
		fill(v.Index(0), n)
		fill(v.Index(1), n)
	case reflect.Array:
		for i := range v.Len() {
			fill(v.Index(i), n)
		}
	case reflect.Map:
		key, value := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
		fill(key, n)
		fill(value, n)
		v.Set(reflect.MakeMap(v.Type()))
		v.SetMapIndex(key, value)
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem(), n)
	case reflect.Struct:
		for i := range v.NumField() {
			fill(v.Field(i), n)
		}
	default:
		panic("a plan has a " + v.Type().String())
	}
}

// own is what the runtime keeps to itself.
var own = []cmp.Option{
	cmpopts.IgnoreFields(Process{}, "Initial", "Final", "Unknown"), cmpopts.IgnoreFields(Mount{}, "IDs"),
	cmpopts.IgnoreFields(Plan{}, "State.Status", "State.PID"),           // the stage's to say
	cmpopts.IgnoreFields(Scheduler{}, "Attr.Util_min", "Attr.Util_max"), // for which a spec has no fields
}

// TestTheStageReadsWhatTheRuntimeWrites whatever fields a plan will have.
func TestTheStageReadsWhatTheRuntimeWrites(t *testing.T) {
	full := &Plan{}
	fill(reflect.ValueOf(full).Elem(), new(int))
	for name, want := range map[string]*Plan{"all": full, "nothing": {}} {
		message, err := want.Message()
		if err != nil {
			t.Fatal(err)
		}
		length, ok := ParseLength([4]byte(message))
		if !ok || length != len(message)-4 {
			t.Fatalf("%s: a message of %d bytes says %d", name, len(message), length)
		}
		got := &Plan{}
		if err := got.Unmarshal(message[4:]); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got, append(own, cmpopts.EquateEmpty())...); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
		for n := range message[4:] {
			if new(Plan).Unmarshal(message[4:][:n]) == nil {
				t.Errorf("%s: %d of %d bytes are taken for a plan", name, n, length)
			}
		}
	}
}

func TestATooLongPlanIsRefused(t *testing.T) {
	p := &Plan{Process: Process{Args: []string{strings.Repeat("x", maxPlan)}}}
	if _, err := p.Message(); err == nil || !strings.Contains(err.Error(), "at most 16777216 are possible") {
		t.Error(err)
	}
}

// TestExecsShareWhatIsCommon: they write it at once, and none changes it.
func TestExecsShareWhatIsCommon(t *testing.T) {
	full := &Plan{}
	fill(reflect.ValueOf(full).Elem(), new(int))
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			if _, err := (&Plan{Common: full.Common}).Message(); err != nil {
				t.Error(err)
			}
		})
	}
	filter := &full.Common.Filters[0][0]
	all.Wait()
	if &full.Common.Filters[0][0] != filter {
		t.Error("a filter has been copied")
	}
}

func TestDrop(t *testing.T) {
	p := &Plan{Namespaces: []Namespace{{Flag: 1}, {Flag: 2}, {Flag: 4}}}
	p.Drop(2)
	p.Drop(8)
	if p.Namespace(2) != nil || p.Namespace(1) == nil || p.Namespace(4) == nil || len(p.Namespaces) != 2 {
		t.Errorf("left: %v", p.Namespaces)
	}
}

func FuzzUnmarshal(f *testing.F) {
	full := &Plan{}
	fill(reflect.ValueOf(full).Elem(), new(int))
	data, err := full.Marshal()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Fuzz(func(t *testing.T, data []byte) {
		p := &Plan{}
		if p.Unmarshal(data) != nil {
			return
		}
		again, err := p.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		q := &Plan{}
		if err := q.Unmarshal(again); err != nil || !cmp.Equal(p, q, cmpopts.EquateEmpty()) {
			t.Errorf("not the same again: %v", err)
		}
	})
}
