package stage

import (
	"strings"
	"testing"
)

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
