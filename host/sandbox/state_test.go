package sandbox

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"kata/host/process"
)

func TestAFolderIsClaimedOnceForEachBundle(t *testing.T) {
	root := filepath.Join(t.TempDir(), "kata")
	first, err := claim(root, State{ID: "test", Bundle: "/b/1"})
	if err != nil {
		t.Fatal(err)
	}
	if want := filepath.Join(root, "test"); first.dir != want {
		t.Errorf("folder %s, want %s", first.dir, want)
	}
	if _, err := claim(root, State{ID: "test", Bundle: "/b/1"}); !errors.Is(err, fs.ErrExist) {
		t.Errorf("claiming twice gave %v, want it to exist", err)
	}
	second, err := claim(root, State{ID: "test", Bundle: "/b/2"})
	if err != nil {
		t.Fatalf("the same id of another bundle: %v", err)
	}
	for _, want := range []*store{first, second} {
		dir, state, err := find(root, "test", want.state.Bundle)
		if err != nil || dir != want.dir || state.Bundle != want.state.Bundle {
			t.Errorf("find %s gave %s, %+v, %v", want.state.Bundle, dir, state, err)
		}
	}
	if _, _, err := find(root, "test", "/b/3"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a bundle that never ran gave %v", err)
	}
}

func TestIDsThatAreNoNamesAreRefused(t *testing.T) {
	for _, id := range []string{"", "a/b", "..", ".hidden", strings.Repeat("x", maxID+1)} {
		if _, err := claim(t.TempDir(), State{ID: id}); err == nil {
			t.Errorf("id %q was accepted", id)
		}
	}
}

func TestStateReachesTheDiskWithEveryChange(t *testing.T) {
	s, err := claim(t.TempDir(), State{ID: "test"})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.addProcess("vmm", process.ID{PID: 7, StartTime: 9}); err != nil {
		t.Fatal(err)
	}
	state, err := readState(s.dir)
	if err != nil {
		t.Fatal(err)
	}
	if state.Version != stateVersion || len(state.Processes) != 1 || state.Processes[0].ID.StartTime != 9 {
		t.Errorf("read back %+v", state)
	}
}

func TestCleanupKillsWhatTheStateNamesAndNothingElse(t *testing.T) {
	root := t.TempDir()
	ours, other := sleeper(t), sleeper(t)
	s, err := claim(root, State{ID: "test", Bundle: "/b"})
	if err != nil {
		t.Fatal(err)
	}
	id, err := process.Identify(ours.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	reused, err := process.Identify(other.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	reused.StartTime-- // the pid now belongs to somebody else
	for name, id := range map[string]process.ID{"vmm": id, "gone": reused} {
		if err := s.addProcess(name, id); err != nil {
			t.Fatal(err)
		}
	}
	o := CleanupOptions{StateRoot: root, ID: "test", Bundle: "/b", Log: slog.New(slog.DiscardHandler)}
	for range 2 { // the second run finds nothing and is no error
		if err := Cleanup(context.Background(), o); err != nil {
			t.Fatal(err)
		}
	}
	if id.Alive() {
		t.Error("the process of the state is alive")
	}
	if still, err := process.Identify(other.Process.Pid); err != nil || !still.Alive() {
		t.Error("a process that only shares the pid was killed")
	}
	if dirExists(s.dir) {
		t.Error("the folder is still there")
	}
}

func TestCleanupRemovesAFolderWhoseStateIsHalfWritten(t *testing.T) {
	root := t.TempDir()
	dir := filepath.Join(root, "test")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, stateFile), []byte(`{"Version":`), 0o600); err != nil {
		t.Fatal(err)
	}
	o := CleanupOptions{StateRoot: root, ID: "test", Bundle: "/b", Log: slog.New(slog.DiscardHandler)}
	if err := Cleanup(context.Background(), o); err != nil || dirExists(dir) {
		t.Errorf("cleanup gave %v, folder left: %v", err, dirExists(dir))
	}
}

func TestUndoRunsEveryStepOnceInReverse(t *testing.T) {
	var u undo
	var ran []string
	for _, what := range []string{"a", "b", "c"} {
		u.push(what, func(context.Context) error {
			ran = append(ran, what)
			if what == "b" {
				return errors.New("stuck")
			}
			return nil
		})
	}
	err := u.run(context.Background())
	if err == nil || err.Error() != "release b: stuck" {
		t.Errorf("error %v", err)
	}
	if err := u.run(context.Background()); err != nil {
		t.Errorf("second run: %v", err)
	}
	if got := strings.Join(ran, ""); got != "cba" {
		t.Errorf("ran %q", got)
	}
}

// sleeper starts a process that the test reaps.
func sleeper(t *testing.T) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("sleep", "600")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return cmd
}
