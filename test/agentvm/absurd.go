package agentvm

import (
	"fmt"
	"math"
	"math/rand/v2"
	"reflect"
	"strings"

	"kata/api/ttrpc"
)

// Absurd makes requests that nobody should send. It is not safe for concurrent
// use; the same seed gives the same requests.
type Absurd struct {
	rand *rand.Rand
	// Names are strings that make sense somewhere.
	Names []string
}

// NewAbsurd returns a source of requests.
func NewAbsurd(seed uint64, names ...string) *Absurd {
	return &Absurd{rand: rand.New(rand.NewPCG(seed, seed)), Names: names}
}

const (
	maxDepth = 5
	maxList  = 3
	// longList is how many elements a list has now and then.
	longList = 5000
)

// Bytes returns a message of random bytes, most of which look like fields.
func (a *Absurd) Bytes() Raw {
	b := make(Raw, a.rand.IntN(200))
	for i := range b {
		b[i] = byte(a.rand.Uint32())
	}
	for i := 0; i+1 < len(b) && a.rand.IntN(4) != 0; {
		size := a.rand.IntN(20)
		b[i] = byte(1+a.rand.IntN(15))<<3 | byte([...]int{0, 1, 2, 2, 2, 5}[a.rand.IntN(6)])
		b[i+1] = byte(size)
		i += 2 + size
	}
	return b
}

// Message fills in every field of a message.
func (a *Absurd) Message(m ttrpc.Message) ttrpc.Message {
	a.fill(reflect.ValueOf(m).Elem(), 0)
	return m
}

// Change makes one field, at any depth, of a message that may make sense absurd,
// and says which.
func (a *Absurd) Change(m ttrpc.Message) string {
	v, path := reflect.ValueOf(m).Elem(), ""
	for depth := 0; ; depth++ {
		fields := fieldsOf(v.Type())
		if len(fields) == 0 {
			return path
		}
		field := fields[a.rand.IntN(len(fields))]
		f := v.Field(field.index)
		path += "." + field.name
		// Deeper, where there is something.
		if f.Kind() == reflect.Slice && f.Len() > 0 && f.Index(0).Kind() == reflect.Pointer && a.rand.IntN(3) > 0 {
			f = f.Index(a.rand.IntN(f.Len()))
		}
		if f.Kind() == reflect.Pointer && !f.IsNil() && f.Elem().Kind() == reflect.Struct && a.rand.IntN(4) > 0 {
			v = f.Elem()
			continue
		}
		a.value(f, depth)
		return path
	}
}

// field is a field of a generated message.
type field struct {
	name  string // as in the .proto
	index int    // as Go's reflection counts
}

// fieldsOf returns the fields of a generated struct, whose tags hold their names.
func fieldsOf(t reflect.Type) []field {
	var all []field
	for i := range t.NumField() {
		if name, ok := t.Field(i).Tag.Lookup("pb"); ok {
			all = append(all, field{name, i})
		}
	}
	return all
}

func (a *Absurd) fill(v reflect.Value, depth int) {
	for _, field := range fieldsOf(v.Type()) {
		if a.rand.IntN(3) > 0 {
			a.value(v.Field(field.index), depth)
		}
	}
}

// value sets anything to something.
func (a *Absurd) value(v reflect.Value, depth int) {
	switch v.Kind() {
	case reflect.Bool:
		v.SetBool(a.rand.IntN(2) == 0)
	case reflect.String:
		v.SetString(a.text())
	case reflect.Int32, reflect.Int64:
		v.SetInt(a.number())
	case reflect.Uint32, reflect.Uint64:
		v.SetUint(uint64(a.number()))
	case reflect.Pointer:
		a.pointer(v, depth)
	case reflect.Slice:
		a.list(v, depth)
	case reflect.Map:
		a.table(v, depth)
	default:
		panic(fmt.Sprintf("a field of kind %v", v.Kind()))
	}
}

func (a *Absurd) pointer(v reflect.Value, depth int) {
	v.SetZero()
	if depth >= maxDepth || a.rand.IntN(4) == 0 {
		return
	}
	v.Set(reflect.New(v.Type().Elem()))
	if v.Elem().Kind() != reflect.Struct {
		a.value(v.Elem(), depth)
		return
	}
	if a.rand.IntN(4) > 0 {
		a.fill(v.Elem(), depth+1)
	}
}

func (a *Absurd) list(v reflect.Value, depth int) {
	n := a.rand.IntN(maxList + 1)
	if a.rand.IntN(50) == 0 && depth < 2 {
		n = longList
	}
	v.Set(reflect.MakeSlice(v.Type(), n, n))
	for i := range min(n, maxList) {
		e := v.Index(i)
		if e.Kind() == reflect.Uint8 {
			e.SetUint(uint64(a.rand.Uint32N(256)))
			continue
		}
		a.value(e, depth+1)
	}
	if v.Type().Elem().Kind() != reflect.Pointer {
		return
	}
	for i := range n { // an element that is nil cannot be sent
		if v.Index(i).IsNil() {
			v.Index(i).Set(reflect.New(v.Type().Elem().Elem()))
		}
	}
}

func (a *Absurd) table(v reflect.Value, depth int) {
	v.Set(reflect.MakeMap(v.Type()))
	for range a.rand.IntN(maxList + 1) {
		key, value := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
		a.value(key, depth)
		a.value(value, depth+1)
		if value.Kind() == reflect.Pointer && value.IsNil() {
			value.Set(reflect.New(value.Type().Elem()))
		}
		v.SetMapIndex(key, value)
	}
}

// number returns one at the edges of something, or any.
func (a *Absurd) number() int64 {
	edges := [...]int64{
		0, 1, -1, 2, 7, 9, 64, 65, 255, 256, 1024, 1 << 16, 1<<16 - 1, 1 << 20, math.MaxInt32, math.MinInt32,
		math.MaxUint32, 1 << 32, 1 << 40, math.MaxInt64, math.MinInt64,
	}
	if a.rand.IntN(8) == 0 {
		return int64(a.rand.Uint64())
	}
	return edges[a.rand.IntN(len(edges))]
}

// text returns a string that breaks something, or one that makes sense.
func (a *Absurd) text() string {
	bad := [...]string{
		"", " ", "..", "../../..", "/", "//", "/..", "/proc/self/exe", "/proc/1/root", "/dev/null", "/dev/zero", "/init",
		"a\x00b", "\x00", "\xff\xfe", "a\nb", "%s%n%d", "-1", "99999999999999999999", "0x10", "1e9", "true",
		strings.Repeat("x", 256), strings.Repeat("/x", 3000), strings.Repeat("9", 70000), "0:0", "02/01", "0000:00:00.0",
		"::1", "0.0.0.0", "10.0.0.1", "255.255.255.255", "ff:ff:ff:ff:ff:ff", "lo", "rw", "ro", "rbind", "size=0", "size=-1",
		"mode=99999", "uid=-1", "pagesize=7", "sd*", "CAP_SYS_ADMIN", "RLIMIT_NOFILE", "a=b=c", "=", "net.ipv4.ip_forward",
	}
	if len(a.Names) > 0 && a.rand.IntN(2) == 0 {
		return a.Names[a.rand.IntN(len(a.Names))]
	}
	return bad[a.rand.IntN(len(bad))]
}
