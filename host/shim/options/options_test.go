package options

import (
	"strings"
	"testing"

	"github.com/containerd/containerd/api/types/runtimeoptions/v1"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

func TestDecode(t *testing.T) {
	encode := func(url string, o *runtimeoptions.Options) *anypb.Any {
		b, err := proto.Marshal(o)
		if err != nil {
			t.Fatal(err)
		}
		return &anypb.Any{TypeUrl: url, Value: b}
	}
	const ours = "runtimeoptions.v1.Options"
	for name, c := range map[string]struct {
		in         *anypb.Any
		want, fail string
	}{
		"none":                             {nil, "", ""},
		"an empty Any":                     {&anypb.Any{}, "", ""},
		"empty options":                    {encode(ours, &runtimeoptions.Options{}), "", ""},
		"a path":                           {encode(ours, &runtimeoptions.Options{ConfigPath: "/c.toml"}), "/c.toml", ""},
		"a prefixed type":                  {encode("types.containerd.io/"+ours, &runtimeoptions.Options{ConfigPath: "/c.toml"}), "/c.toml", ""},
		"a path and a body":                {encode(ours, &runtimeoptions.Options{ConfigPath: "/c.toml", ConfigBody: []byte("a=1")}), "/c.toml", ""},
		"a body alone":                     {encode(ours, &runtimeoptions.Options{ConfigBody: []byte("a=1")}), "", `"a=1"`},
		"an empty body":                    {encode(ours, &runtimeoptions.Options{ConfigBody: []byte("\n")}), "", ""},
		"a relative path":                  {encode(ours, &runtimeoptions.Options{ConfigPath: "c.toml"}), "", `"c.toml" is not an absolute`},
		"runc's options":                   {&anypb.Any{TypeUrl: "containerd.runc.v1.Options"}, "", "containerd.runc.v1.Options"},
		"bytes that are none":              {&anypb.Any{TypeUrl: ours, Value: []byte{0xff}}, "", "runtime options"},
		"a user namespace's, of ctr 1.6":   {&anypb.Any{TypeUrl: legacyType, Value: []byte{10 << 3, 0xa0, 0x8d, 6, 11 << 3, 1}}, "", ""},
		"what only runc has, in the same":  {&anypb.Any{TypeUrl: legacyType, Value: []byte{10 << 3, 1, 1 << 3, 1}}, "", "field 1 is for runc"},
		"bytes that are none, in the same": {&anypb.Any{TypeUrl: legacyType, Value: []byte{10 << 3}}, "", "runtime options"},
		"a tag that is none, in the same":  {&anypb.Any{TypeUrl: legacyType, Value: []byte{0xff}}, "", "runtime options"},
		"no type":                          {&anypb.Any{Value: []byte("x")}, "", `""`},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := Decode(c.in)
			if got.ConfigPath != c.want || (err == nil) != (c.fail == "") || (err != nil && !strings.Contains(err.Error(), c.fail)) {
				t.Errorf("Decode = %+v, %v", got, err)
			}
		})
	}
}
