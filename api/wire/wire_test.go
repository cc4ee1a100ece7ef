package wire_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"kata/api/agentpb"
	"kata/api/ocipb"
	"kata/api/wire"
)

func TestDecoderRefuses(t *testing.T) {
	for name, b := range map[string]string{
		"a tag that does not end":           "\x80",
		"field zero":                        "\x00\x00",
		"a field number beyond 29 bits":     "\x80\x80\x80\x80\x10\x00",
		"a varint that does not end":        "\x08\xff",
		"a varint of eleven bytes":          "\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x80\x01",
		"a varint of more than 64 bits":     "\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02",
		"a string longer than the message":  "\x0a\x02a",
		"a length beyond any int":           "\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01a",
		"a short fixed64":                   "\x09abc",
		"a short fixed32":                   "\x0dabc",
		"a group":                           "\x0b\x0c",
		"wire type 6":                       "\x0e",
		"a message that is malformed":       "\x1a\x01\xff",
		"a list that is malformed":          "\x12\x05\x1a\x03\x1a\x01\xff",
		"a map's entry that is malformed":   "\x3a\x01\xff",
		"something malformed after a field": "\x0a\x01a\xff",
	} {
		if err := new(ocipb.Spec).UnmarshalVT([]byte(b)); !errors.Is(err, wire.ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestDecoderAccepts(t *testing.T) {
	var u ocipb.User
	if err := u.UnmarshalVT([]byte("\x18\x01\x1a\x02\x02\x03\x18\x04")); err != nil || !slices.Equal(u.AdditionalGids, []uint32{1, 2, 3, 4}) {
		t.Errorf("a list packed and not: %v, %v", u.AdditionalGids, err)
	}
	var s ocipb.Spec
	if err := s.UnmarshalVT([]byte("\x08\x07\x0d1234\x0912345678\xfa\xff\xff\xff\x0f\x01x\x22\x01h\x22\x02hh")); err != nil || s.Version != "" || s.Hostname != "hh" {
		t.Errorf("other wire types, an unknown field and the last of two: %+v, %v", &s, err)
	}
	if err := s.UnmarshalVT([]byte("\x3a\x00\x3a\x03\x12\x01v\x3a\x03\x0a\x01k")); err != nil || len(s.Annotations) != 2 || s.Annotations[""] != "v" {
		t.Errorf("entries without key or value: %v, %v", s.Annotations, err)
	}
	if err := s.UnmarshalVT([]byte("\x12\x02\x32\x00\x12\x04\x32\x02\xff/")); err != nil || s.Process.Cwd != "\xff/" {
		t.Errorf("a message in two pieces, any bytes in a string: %+v, %v", s.Process, err)
	}
}

func TestMessagesShareNoMemory(t *testing.T) {
	b, err := (&agentpb.WriteStreamRequest{ContainerId: "c", Data: []byte("data")}).MarshalVT()
	if err != nil {
		t.Fatal(err)
	}
	var m agentpb.WriteStreamRequest
	if err := m.UnmarshalVT(b); err != nil {
		t.Fatal(err)
	}
	clear(b)
	if m.ContainerId != "c" || string(m.Data) != "data" {
		t.Errorf("%q %q", m.ContainerId, m.Data)
	}
}

func TestEncoderBuffer(t *testing.T) {
	m := &agentpb.CreateSandboxRequest{Hostname: "host", Dns: []string{"a", strings.Repeat("b", 300)}, Storages: []*agentpb.Storage{nil, {Driver: "d"}}}
	whole, err := m.MarshalVT()
	if err != nil || len(whole) != m.SizeVT() {
		t.Fatalf("%d bytes of %d, %v", len(whole), m.SizeVT(), err)
	}
	for n := range len(whole) {
		if _, err := m.MarshalToSizedBufferVT(make([]byte, n)); !errors.Is(err, wire.ErrBuffer) {
			t.Errorf("into %d bytes: %v", n, err)
		}
	}
	large := make([]byte, len(whole)+5)
	if n, err := m.MarshalToSizedBufferVT(large); err != nil || string(large[5:]) != string(whole) || n != len(whole) {
		t.Errorf("into a larger buffer: %d, %v", n, err)
	}
	var none *agentpb.Storage
	if b, err := none.MarshalVT(); len(b) != 0 || err != nil {
		t.Errorf("nil message: %q, %v", b, err)
	}
}

func TestDecoderBoundsFields(t *testing.T) {
	full := strings.Repeat("\x1a\x00", wire.MaxFields-1)
	// A Spec with a Process with as many arguments as there may be.
	process := func(args string) []byte {
		e := &ocipb.Spec{Process: &ocipb.Process{}}
		if err := e.Process.UnmarshalVT([]byte(strings.ReplaceAll(args, "\x1a", "\x22"))); err != nil {
			t.Fatal(err)
		}
		b, err := e.MarshalVT()
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	var s ocipb.Spec
	if err := s.UnmarshalVT(process(full)); err != nil || len(s.Process.Args) != wire.MaxFields-1 {
		t.Errorf("as many as there may be: %v", err)
	}
	if err := s.UnmarshalVT(append(process(full), "\x0a\x00"...)); !errors.Is(err, wire.ErrFields) {
		t.Errorf("one more behind the message in the message: %v", err)
	}
	if err := s.UnmarshalVT([]byte(full + "\x1a\x00\x1a\x00")); !errors.Is(err, wire.ErrFields) {
		t.Errorf("more of one field: %v", err)
	}
	packed := "\x1a\xff\xff\x03" + strings.Repeat("\x01", 1<<16-1)
	if err := new(ocipb.User).UnmarshalVT([]byte(packed)); !errors.Is(err, wire.ErrFields) {
		t.Errorf("a packed list: %v", err)
	}
	entry := "\x3a\xfe\xff\x07" + strings.Repeat("\x0a\x00", 1<<16-1)
	if err := new(ocipb.Spec).UnmarshalVT([]byte(entry)); !errors.Is(err, wire.ErrFields) {
		t.Errorf("an entry of a map: %v", err)
	}
}
