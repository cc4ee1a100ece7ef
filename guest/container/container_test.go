package container

import (
	"errors"
	"testing"

	"kata/api/ocipb"
)

func TestRun(t *testing.T) {
	rt := testRuntime(t)
	for _, tt := range []struct {
		name, script string
		want         result
	}{
		{"output and success", "echo hello; echo error >&2", result{0, "hello\nerror\n"}},
		{"an exit code", "exit 42", result{42, ""}},
		{"death by SIGKILL of a child is seen by its parent", "sh -c 'kill -9 $$'; echo $?", result{0, "Killed\n137\n"}},
		{"it is process 1 and alone", "set -- /proc/[0-9]*; echo $$ $@", result{0, "1 /proc/1\n"}},
		{"standard input is the null device", "cat; readlink /proc/self/fd/0", result{0, "/dev/null\n"}},
		{"no descriptor is inherited", "exec ls /proc/self/fd", result{0, "0\n1\n2\n3\n"}}, // 3 is ls's own
		{"no signal is ignored or blocked", "grep -E '^Sig(Ign|Blk)' /proc/self/status | cut -f2 | sort -u", result{0, "0000000000000000\n"}},
		{"it leads a session", "cut -d' ' -f6 /proc/self/stat", result{0, "1\n"}},
		{"default umask", "umask", result{0, "0022\n"}},
		{"oom score", "cat /proc/self/oom_score_adj", result{0, "0\n"}},
		{"home comes from passwd", "echo $HOME", result{0, "/root\n"}},
		{"it is the root of its cgroup namespace", "cat /proc/self/cgroup | grep ^0::", result{0, "0::/\n"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := run(t, rt, defaultSpec(makeRootfs(t), tt.script)); got != tt.want {
				t.Errorf("got %+v, want %+v", got, tt.want)
			}
		})
	}
}

func TestCommandThatCannotBeExecuted(t *testing.T) {
	rt := testRuntime(t)
	for _, tt := range []struct {
		name, command, want string
		atStart             bool
	}{
		{"not in the path", "nosuchcmd", `exec: "nosuchcmd": executable file not found in $PATH`, false},
		{"empty", "", `exec: "": executable file not found in $PATH`, false},
		{"no such file", "/x", `exec: "/x": stat /x: no such file or directory`, false},
		{"a directory", "/etc", `exec: "/etc": is a directory`, false},
		{"not executable", "/plain", `exec: "/plain": permission denied`, false},
		{"not a program", "/nonsense", `exec /nonsense: exec format error`, true},
		{"no interpreter", "/script", `exec /script: no such file or directory`, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			rootfs := makeRootfs(t)
			write(t, rootfs+"/plain", "", 0o644)
			write(t, rootfs+"/nonsense", "nonsense", 0o755)
			write(t, rootfs+"/script", "#!/nosuch\n", 0o755)
			spec := defaultSpec(rootfs, "")
			spec.Process.Args = []string{tt.command}
			c, _, err := create(t, rt, spec)
			if tt.atStart && err == nil {
				err = c.Start(testContext(t))
			}
			var said *StageError
			if !errors.As(err, &said) || said.Text != tt.want || !said.Command {
				t.Errorf("error %v, want %s", err, tt.want)
			}
		})
	}
}

func TestExec(t *testing.T) {
	rt := testRuntime(t)
	c := sleeper(t, rt, func(s *ocipb.Spec) { s.Hostname = "inside" })
	got, err := execIn(t, c, execProcess("hostname; ls -d /proc/1; cat /proc/1/cmdline | tr '\\0' ' '; ls /proc/self/fd | wc -l; exit 7"))
	if want := (result{7, "inside\n/proc/1\nsleep 100000 4\n"}); err != nil || got != want {
		t.Errorf("got %+v, %v; want %+v", got, err, want)
	}
	pids, err := c.Pids()
	if err != nil || len(pids) != 1 || pids[0] != c.Init().PID() {
		t.Errorf("processes %v, %v; want only %d", pids, err, c.Init().PID())
	}
}

func TestExecOfAMissingCommand(t *testing.T) {
	rt := testRuntime(t)
	c := sleeper(t, rt)
	p := execProcess("")
	p.Args = []string{"nosuchcmd"}
	_, err := execIn(t, c, p)
	if want := `exec: "nosuchcmd": executable file not found in $PATH`; err == nil || err.Error() != want {
		t.Errorf("error %v, want %s", err, want)
	}
}

func write(t testing.TB, path, text string, mode uint32) {
	t.Helper()
	if err := writeFile(path, text, mode); err != nil {
		t.Fatal(err)
	}
}
