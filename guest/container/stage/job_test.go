package stage

import (
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"kata/api/ocipb"
)

func TestJobs(t *testing.T) {
	for _, want := range []Job{
		{},
		{Born: true, Names: Names{User: "ann"}},
		{Privileged: true, Names: Names{Group: "wheel", Groups: []string{"a", "b"}}, Trees: []int{-1, 0, 12, -2}},
	} {
		want.Spec = &ocipb.Spec{Hostname: "x", Process: &ocipb.Process{Args: []string{"sh"}}}
		message, err := want.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(message); err != nil {
			t.Fatal(err)
		}
		w.Close()
		got, err := conn(r.Fd()).job()
		r.Close()
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(&want, got, cmpopts.IgnoreUnexported(ocipb.Spec{}, ocipb.Process{})); diff != "" {
			t.Error(diff)
		}
	}
}

func FuzzJob(f *testing.F) {
	f.Add("true\x00false\x00ann\x00wheel\x00\x00-1\x00")
	f.Fuzz(func(_ *testing.T, rest string) { _ = new(Job).unmarshalRest(rest) })
}

// The files of users are the container's and hold anything.
func FuzzPasswd(f *testing.F) {
	f.Add("root:x:0:0:root:/root:/bin/sh\n:::::\nx", "root")
	f.Fuzz(func(t *testing.T, text, name string) {
		_, _ = lookUp(text, "user", name)
		if dir := homeIn(text, 0); dir == "" || strings.Contains(dir, ":") {
			t.Errorf("home %q", dir)
		}
	})
}
