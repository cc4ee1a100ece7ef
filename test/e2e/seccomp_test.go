//go:build e2e

package e2e

import (
	"encoding/json"
	"os"
	"slices"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"kata/test/harness"
)

// filtered gives the container a seccomp profile, and makes kata apply it.
func (t *test) filtered(c harness.Container, profile string) harness.Container {
	t.Helper()
	c.Flags = append(c.Flags, "--seccomp", "--seccomp-profile", t.file("profile.json", []byte(profile)))
	return t.applySeccomp(c)
}

func (t *test) applySeccomp(c harness.Container) harness.Container {
	t.Helper()
	if t.runtime != harness.Kata {
		return c
	}
	repo, err := harness.Repository()
	if err != nil {
		t.Fatal(err)
	}
	return t.withConfigFile(c, repo.KataConfig(nil)+"[runtime]\ndisable_guest_seccomp = false\n")
}

// except is a profile that allows all but what the rule says.
func except(rule string) string {
	return `{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [` + rule + `]}`
}

// defaultWithout is Docker's profile with some calls less, which get an error
// number as all that it does not know.
func defaultWithout(t *testing.T, errno uint, names ...string) string {
	t.Helper()
	text, err := os.ReadFile("../../host/seccomp/testdata/default.json")
	if err != nil {
		t.Fatal(err)
	}
	profile := new(specs.LinuxSeccomp)
	if err := json.Unmarshal(text, profile); err != nil {
		t.Fatal(err)
	}
	profile.DefaultErrnoRet = &errno
	for i := range profile.Syscalls {
		s := &profile.Syscalls[i]
		s.Names = slices.DeleteFunc(s.Names, func(name string) bool { return slices.Contains(names, name) })
	}
	if text, err = json.Marshal(profile); err != nil {
		t.Fatal(err)
	}
	return string(text)
}

const (
	mkdirHasNoSpace = `{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28}`
	mkdirKills      = `{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_KILL_PROCESS"}`
)

func TestASeccompProfileHolds(t *testing.T) {
	const status = "grep -E '^(NoNewPrivs|Seccomp):' /proc/self/status; "
	tests := []struct {
		name    string
		profile string
		image   string
		flags   []string
		script  string
		stdout  string
		stderr  string
		code    int
	}{
		{
			name:    "an error number",
			profile: except(mkdirHasNoSpace),
			script:  status + "mkdir /d || echo refused; test -e /d || echo nothing made",
			stdout:  "NoNewPrivs:\t1\nSeccomp:\t2\nrefused\nnothing made\n",
			stderr:  "mkdir: can't create directory '/d': No space left on device\n",
		},
		{
			name:    "the same without no_new_privs",
			profile: except(mkdirHasNoSpace),
			flags:   []string{"--allow-new-privs"},
			script:  status + "mkdir /d || echo refused",
			stdout:  "NoNewPrivs:\t0\nSeccomp:\t2\nrefused\n",
			stderr:  "mkdir: can't create directory '/d': No space left on device\n",
		},
		{
			name:    "an error number by default, without root's rights",
			image:   asUser,
			profile: `{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO"}]}`,
			script:  "mkdir /tmp/d",
			stderr:  "mkdir: can't create directory '/tmp/d': Operation not permitted\n",
			code:    1,
		},
		{
			name:    "the end of the process",
			profile: except(mkdirKills),
			script:  "echo before; exec mkdir /d",
			stdout:  "before\n",
			code:    128 + 31,
		},
		{
			name:    "the end of a child",
			profile: except(`{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_KILL"}`),
			script:  "mkdir /d 2>/dev/null; echo $?",
			stdout:  "159\n",
		},
		{
			name:    "a signal that can be caught",
			profile: except(`{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_TRAP"}`),
			script:  "mkdir /d 2>/dev/null; echo $?",
			stdout:  "159\n",
		},
		{
			name:    "arguments",
			profile: except(`{"names": ["kill"], "action": "SCMP_ACT_ERRNO", "errnoRet": 3, "args": [{"index": 1, "value": 10, "op": "SCMP_CMP_EQ"}]}`),
			script:  "trap 'echo 12 came' USR2; kill -USR2 $$; kill -USR1 $$ 2>/dev/null || echo 10 did not",
			stdout:  "12 came\n10 did not\n",
		},
		{
			name:    "only what is allowed",
			profile: defaultWithout(t, 28, "mkdir", "mkdirat"),
			script:  "echo allowed; mkdir /d",
			stdout:  "allowed\n",
			stderr:  "mkdir: can't create directory '/d': No space left on device\n",
			code:    1,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			both(t, func(t *test) {
				c := t.sh(tt.script)
				c.Flags = tt.flags
				if tt.image != "" {
					c.Image = tt.image
				}
				r := node.Run(t.ctx, t.filtered(c, tt.profile))
				t.wantCode(r, tt.code)
				t.wantOutput(r, tt.stdout, tt.stderr)
			})
		})
	}
}

func TestContainerdsOwnSeccompProfileHolds(t *testing.T) {
	both(t, func(t *test) {
		// It allows what programs do, and not to make namespaces.
		c := t.sh("grep Seccomp: /proc/self/status; unshare -U true 2>/dev/null || echo refused; mkdir /d && ls -d /d")
		c.Flags = []string{"--seccomp"}
		t.wantOutput(t.succeed(t.applySeccomp(c)), "Seccomp:\t2\nrefused\n/d\n", "")
	})
}

func TestExecsAreFilteredAsTheContainerIs(t *testing.T) {
	both(t, func(t *test) {
		id := t.detach(t.filtered(t.sh("exec sleep 1000"), except(mkdirHasNoSpace+`, {"names": ["symlink", "symlinkat"], "action": "SCMP_ACT_KILL_PROCESS"}`)))
		// It ends when its output is read: ctr 1.6 under runc loses what comes late.
		input := newInput(t)
		exec := node.BeginExec(t.ctx, harness.Container{
			ID: id, Args: []string{"/bin/sh", "-c", "grep Seccomp: /proc/self/status; mkdir /d 2>&1; s=$?; read go; exit $s"}, Stdin: input.read,
		}, "e1")
		t.awaitOutput(exec.Stdout, "Seccomp:\t2\nmkdir: can't create directory '/d': No space left on device\n")
		input.end()
		t.wantCode(exec.Wait(), 1)
		t.wantCode(node.Exec(t.ctx, id, "e2", "/bin/ln", "-s", "x", "/y"), 128+31)
	})
}

func TestSeccompProfilesThatCannotBeAppliedAreRefused(t *testing.T) {
	for _, tt := range []struct{ name, profile, want string }{
		{"a listener on the host", `{"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/run/listener", "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_NOTIFY"}]}`,
			`linux.seccomp.listenerPath "/run/listener"`},
		{"an action that is none", except(`{"names": ["mkdir"], "action": "SCMP_ACT_JUMP"}`), `syscalls[0].action "SCMP_ACT_JUMP" is unknown`},
		{"an operator that is none", except(`{"names": ["mkdir"], "action": "SCMP_ACT_ERRNO", "args": [{"index": 0, "op": "SCMP_CMP_XX"}]}`),
			`syscalls[0].args[0].op "SCMP_CMP_XX" is unknown`},
	} {
		kata(t, tt.name, func(t *test) {
			t.wantOneLine(node.Run(t.ctx, t.filtered(t.container("true"), tt.profile)), tt.want)
		})
	}
}

// Upstream's default: the profile is dropped, and the log says so.
func TestSeccompProfilesAreDroppedWhenTheConfigurationSaysSo(t *testing.T) {
	kata(t, "kata", func(t *test) {
		before := logSize(t.T)
		c := t.sh("mkdir /d && echo made; grep Seccomp: /proc/self/status")
		c.Flags = []string{"--seccomp", "--seccomp-profile", t.file("profile.json", []byte(except(mkdirKills)))}
		t.wantOutput(t.succeed(c), "made\nSeccomp:\t0\n", "")
		if log := logSince(t.T, before); !strings.Contains(log, "linux.seccomp (disable_guest_seccomp is set)") {
			t.Errorf("the log does not say that the profile was dropped:\n%s", log)
		}
	})
}
