package command

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const configJSON = `{
	"ociVersion": "1.1.0",
	"root": {"path": "rootfs", "readonly": true},
	"process": {"args": ["sh"], "cwd": "/tmp", "env": ["A=1"], "terminal": true, "user": {"uid": 7, "gid": 8}},
	"mounts": [
		{"destination": "/proc", "type": "proc", "source": "proc"},
		{"destination": "/data", "type": "bind", "source": "/srv/data", "options": ["rbind", "ro"]}
	],
	"hooks": {"poststop": [{"path": "/bin/last", "args": ["last", "word"], "timeout": 3}]},
	"linux": {
		"resources": {"pids": {"limit": 5}},
		"seccomp": {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_ERRNO", "errnoRet": 30}]}
	}
}`

func bundle(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "config.json"), []byte(configJSON), 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

// has fails the test unless the last request contains all of want.
func (a *agent) has(want ...string) {
	a.Helper()
	last := a.asked[len(a.asked)-1]
	for _, w := range want {
		if !strings.Contains(last, w) {
			a.Errorf("%s is not in %s", w, last)
		}
	}
}

func TestContainerFromABundle(t *testing.T) {
	dir := bundle(t)
	a := newAgent(t, func(c *Config) { c.BundleDir = dir })
	a.must("CreateContainer cid=c")
	a.has(`"container_id":"c"`, `"Args":["sh"]`, `"Path":"`+dir+`/rootfs","Readonly":true`, `"source":"/srv/data"`, `"Terminal":true`)
	a.has(`"Poststop":[{"Path":"/bin/last","Args":["last","word"],"Env":[],"Timeout":"3"}]`)
	a.has(`"Seccomp":{"DefaultAction":"SCMP_ACT_ALLOW"`, `"errnoret":30`, `"Filters":["`)
	a.must(`CreateContainer cid=d args="echo 'a b'" OCI.Process.Terminal=false OCI.Process.Env=B=2 OCI.Root.Readonly=false`)
	a.has(`"container_id":"d"`, `"Args":["echo","a b"]`, `"Env":["B=2"]`, `"Readonly":false`, `"Terminal":false`, `"UID":7`)
	a.must("ExecProcess exec_id=e args=true") // as the container's own
	a.has(`"container_id":"d"`, `"exec_id":"e"`, `"Args":["true"]`, `"Env":["B=2"]`, `"UID":7`, `"Cwd":"/tmp"`, `"Terminal":false`)
	a.must("ExecProcess cid=other exec_id=e args=true")
	a.has(`"Args":["true"]`, `"UID":0`, `"Cwd":"/"`, `"PATH=`)
	a.must("ExecProcess exec_id=f spec=" + dir + "/config.json")
	a.has(`"Args":["sh"]`, `"UID":7`)
	a.must("UpdateContainer spec=file://" + dir + "/config.json")
	a.has(`"Pids":{"Limit":"5"}`)
	a.must(`CreateContainer cid=x json://{"OCI":{"Root":{"Path":"/r"}}} args=id`) // the spec is JSON's
	a.has(`"Path":"/r"`, `"Args":["id"]`)

	b := newAgent(t, plain)
	b.must("CreateContainer cid=c spec=file://" + dir + "/config.json")
	b.has(`"Path":"` + dir + `/rootfs"`)
	b.must("CreateContainer cid=c OCI.Root.Path=/r")
	b.has(`"Path":"/r"`)
}

// tree is a fake share that writes down what it is asked.
type tree struct{ log []string }

func (s *tree) AddRootfs(cid, source string, readonly bool) (string, func() error, error) {
	if slices.ContainsFunc(s.log, func(line string) bool { return strings.HasPrefix(line, "rootfs "+cid+" ") }) {
		return "", nil, os.ErrExist
	}
	s.log = append(s.log, fmt.Sprintf("rootfs %s %s %t", cid, filepath.Base(source), readonly))
	return "/guest/" + cid + "/rootfs", nil, nil
}

func (s *tree) AddBind(cid string, n int, source string, readonly, recursive bool) (string, func() error, error) {
	s.log = append(s.log, fmt.Sprintf("bind %s %d %s %t %t", cid, n, source, readonly, recursive))
	return fmt.Sprintf("/guest/%s/%d", cid, n), nil, nil
}

func (s *tree) RemoveContainer(cid string) error {
	s.log = append(s.log, "remove "+cid)
	return nil
}

func TestFilesAreShared(t *testing.T) {
	dir, s := bundle(t), &tree{}
	a := newAgent(t, func(c *Config) { c.BundleDir, c.Share = dir, s })
	a.must("CreateContainer cid=c")
	a.has(`"Path":"/guest/c/rootfs"`, `"source":"/guest/c/0"`)
	if err := a.run("CreateContainer cid=c args=other OCI.Process.User.UID=9"); err == nil {
		t.Error("a second container of the name is created")
	}
	a.must("ExecProcess exec_id=e args=true")
	a.has(`"UID":7`) // as the first one's
	a.must("RemoveContainer")
	want := []string{"rootfs c rootfs true", "bind c 0 /srv/data true true", "remove c"}
	if diff := cmp.Diff(want, s.log); diff != "" {
		t.Error(diff)
	}
	s.log = nil
	_ = a.session.cfg.Client.Close()
	if err := a.run("CreateContainer cid=f"); err == nil {
		t.Error("a call without an agent succeeds")
	}
	if last := s.log[len(s.log)-1]; last != "remove f" {
		t.Errorf("after a failure: %q", s.log)
	}
}
