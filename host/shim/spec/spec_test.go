package spec

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

const minimal = `{"ociVersion":"1.0.2","process":{"args":["sh"],"cwd":"/"},"root":{"path":"rootfs"},
"annotations":{"a":"b"},
"linux":{"namespaces":[{"type":"pid"},{"type":"mount"}]}}`

func bundle(t *testing.T, content string) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, FileName), []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestRead(t *testing.T) {
	for name, c := range map[string]struct{ content, want string }{
		"a good spec":                    {minimal, ""},
		"not JSON at all":                {"\n\nnonsense", "line 3"},
		"JSON cut short":                 {minimal[:60], "unexpected end"},
		"a value of the wrong type":      {strings.Replace(minimal, `["sh"]`, `"sh"`, 1), "process.args"},
		"an empty file":                  {"", "unexpected end"},
		"null":                           {"null", "root.path is missing"},
		"no root":                        {strings.Replace(minimal, `"root"`, `"toor"`, 1), "root.path is missing"},
		"no process":                     {strings.Replace(minimal, `"process"`, `"x"`, 1), "process is missing"},
		"no command":                     {strings.Replace(minimal, `["sh"]`, `[]`, 1), "process.args is empty"},
		"a relative working directory":   {strings.Replace(minimal, `"/"`, `"home"`, 1), `process.cwd "home"`},
		"an unknown namespace":           {strings.Replace(minimal, `"mount"`, `"mood"`, 1), `linux.namespaces[1]: unknown namespace "mood"`},
		"a namespace twice":              {strings.Replace(minimal, `"mount"`, `"pid"`, 1), `"pid" is given twice`},
		"something larger than is sound": {string(bytes.Repeat([]byte(" "), MaxSize+1)), "larger than"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := bundle(t, c.content)
			s, err := Read(dir)
			if c.want == "" {
				if err != nil || s.Process.Args[0] != "sh" {
					t.Fatalf("Read = %+v, %v", s, err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), dir) || strings.Contains(err.Error(), "\n") {
				t.Errorf("Read: %v, want one line with %q and %q", err, c.want, dir)
			}
		})
	}
}

func TestMissingSpecIsNamed(t *testing.T) {
	dir := t.TempDir()
	for _, read := range []func(string) error{
		func(b string) error { _, err := Read(b); return err },
		func(b string) error { _, err := ReadAnnotations(b); return err },
	} {
		if err := read(dir); err == nil || !strings.Contains(err.Error(), filepath.Join(dir, "config.json")) {
			t.Errorf("error %v, want one that names the file", err)
		}
	}
}

func TestReadAnnotations(t *testing.T) {
	a, err := ReadAnnotations(bundle(t, minimal))
	if err != nil || len(a) != 1 || a["a"] != "b" {
		t.Errorf("ReadAnnotations = %v, %v", a, err)
	}
}

func TestRoleOf(t *testing.T) {
	for name, c := range map[string]struct {
		annotations map[string]string
		want        Role
		fails       bool
	}{
		"a plain container":             {nil, Role{}, false},
		"containerd's sandbox":          {map[string]string{"io.kubernetes.cri.container-type": "sandbox", "io.kubernetes.cri.sandbox-id": "s"}, Role{Managed: true}, false},
		"containerd's container":        {map[string]string{"io.kubernetes.cri.container-type": "container", "io.kubernetes.cri.sandbox-id": "s"}, Role{"s", true}, false},
		"CRI-O's sandbox":               {map[string]string{"io.kubernetes.cri-o.ContainerType": "sandbox"}, Role{Managed: true}, false},
		"CRI-O's container":             {map[string]string{"io.kubernetes.cri-o.ContainerType": "container", "io.kubernetes.cri-o.SandboxID": "s"}, Role{"s", true}, false},
		"dockershim's sandbox":          {map[string]string{"io.kubernetes.docker.type": "podsandbox"}, Role{Managed: true}, false},
		"dockershim's container":        {map[string]string{"io.kubernetes.docker.type": "container", "io.kubernetes.sandbox.id": "s"}, Role{"s", true}, false},
		"a container without a sandbox": {map[string]string{"io.kubernetes.cri.container-type": "container"}, Role{}, true},
		"two managers that agree": {map[string]string{
			"io.kubernetes.cri.container-type": "container", "io.kubernetes.cri.sandbox-id": "s",
			"io.kubernetes.cri-o.ContainerType": "container", "io.kubernetes.cri-o.SandboxID": "s",
		}, Role{"s", true}, false},
		"two words for a sandbox": {map[string]string{
			"io.kubernetes.cri.container-type": "sandbox", "io.kubernetes.docker.type": "podsandbox",
		}, Role{Managed: true}, false},
		"two managers that disagree on the sandbox": {map[string]string{
			"io.kubernetes.cri.container-type": "container", "io.kubernetes.cri.sandbox-id": "s",
			"io.kubernetes.cri-o.ContainerType": "container", "io.kubernetes.cri-o.SandboxID": "t",
		}, Role{}, true},
		"two managers that disagree on the kind": {map[string]string{
			"io.kubernetes.cri.container-type": "sandbox", "io.kubernetes.cri.sandbox-id": "s",
			"io.kubernetes.cri-o.ContainerType": "container", "io.kubernetes.cri-o.SandboxID": "s",
		}, Role{}, true},
		"two managers that disagree the other way": {map[string]string{
			"io.kubernetes.cri-o.ContainerType": "container", "io.kubernetes.cri-o.SandboxID": "s",
			"io.kubernetes.docker.type": "podsandbox",
		}, Role{}, true},
		"two sandboxes of other names": {map[string]string{
			"io.kubernetes.cri.container-type": "sandbox", "io.kubernetes.cri.sandbox-id": "s",
			"io.kubernetes.cri-o.ContainerType": "sandbox", "io.kubernetes.cri-o.SandboxID": "t",
		}, Role{}, true},
		"another manager's id alone": {map[string]string{
			"io.kubernetes.cri.container-type": "container", "io.kubernetes.cri.sandbox-id": "s",
			"io.kubernetes.sandbox.id": "t",
		}, Role{}, true},
		"another manager's unknown kind": {map[string]string{
			"io.kubernetes.cri.container-type": "sandbox", "io.kubernetes.docker.type": "sandbox",
		}, Role{}, true},
		"an unknown kind": {map[string]string{"io.kubernetes.cri.container-type": "pot"}, Role{}, true},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := RoleOf(c.annotations)
			if got != c.want || (err != nil) != c.fails {
				t.Errorf("RoleOf = %+v, %v", got, err)
			}
		})
	}
}

func TestSharesPIDs(t *testing.T) {
	for name, c := range map[string]struct {
		linux *specs.Linux
		want  bool
	}{
		"no linux section": {nil, true},
		"no pid namespace": {&specs.Linux{}, true},
		"a new one":        {&specs.Linux{Namespaces: []specs.LinuxNamespace{{Type: "pid"}}}, false},
		"another's":        {&specs.Linux{Namespaces: []specs.LinuxNamespace{{Type: "pid", Path: "/proc/1/ns/pid"}}}, true},
	} {
		if got := SharesPIDs(&specs.Spec{Linux: c.linux}); got != c.want {
			t.Errorf("%s: SharesPIDs = %t", name, got)
		}
	}
}
