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
		in   *anypb.Any
		want Options
		fail string
	}{
		"none":                     {nil, Options{}, ""},
		"an empty Any":             {&anypb.Any{}, Options{}, ""},
		"empty options":            {encode(ours, &runtimeoptions.Options{}), Options{}, ""},
		"a path":                   {encode(ours, &runtimeoptions.Options{ConfigPath: "/c.toml"}), Options{ConfigPath: "/c.toml"}, ""},
		"a prefixed type":          {encode("types.containerd.io/"+ours, &runtimeoptions.Options{ConfigPath: "/c.toml"}), Options{ConfigPath: "/c.toml"}, ""},
		"a path and a body":        {encode(ours, &runtimeoptions.Options{ConfigPath: "/c.toml", ConfigBody: []byte("a=1")}), Options{ConfigPath: "/c.toml"}, ""},
		"a body alone":             {encode(ours, &runtimeoptions.Options{ConfigBody: []byte("a=1")}), Options{}, `"a=1"`},
		"an empty body":            {encode(ours, &runtimeoptions.Options{ConfigBody: []byte("\n")}), Options{}, ""},
		"a relative path":          {encode(ours, &runtimeoptions.Options{ConfigPath: "c.toml"}), Options{}, `"c.toml" is not an absolute`},
		"bytes that are none":      {&anypb.Any{TypeUrl: ours, Value: []byte{0xff}}, Options{}, "runtime options"},
		"runc's":                   {&anypb.Any{TypeUrl: "containerd.runc.v1.Options"}, Options{Ignored: "containerd.runc.v1.Options"}, ""},
		"runc's, not looked into":  {&anypb.Any{TypeUrl: "types.containerd.io/containerd.runc.v1.Options", Value: []byte{0xff}}, Options{Ignored: "types.containerd.io/containerd.runc.v1.Options"}, ""},
		"those of ctr 1.6's users": {&anypb.Any{TypeUrl: "containerd.linux.runc.CreateOptions", Value: []byte{10 << 3, 1}}, Options{Ignored: "containerd.linux.runc.CreateOptions"}, ""},
		"nobody's":                 {&anypb.Any{TypeUrl: "x", Value: []byte("y")}, Options{Ignored: "x"}, ""},
		"no type":                  {&anypb.Any{Value: []byte("x")}, Options{}, "no type"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := Decode(c.in)
			if got != c.want || (err == nil) != (c.fail == "") || (err != nil && !strings.Contains(err.Error(), c.fail)) {
				t.Errorf("Decode = %+v, %v", got, err)
			}
		})
	}
}
