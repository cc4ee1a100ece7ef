package journal

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"kata/host/process"
	"kata/test/leaktest"
)

func TestMain(m *testing.M) { os.Exit(leaktest.Run(m, "kata/host/journal.")) }

func claim(t *testing.T, root, id, bundle string) *Journal {
	t.Helper()
	j, err := Claim(root, Header{ID: id, Bundle: bundle})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = j.Close() })
	return j
}

// crash is the end of the shim: the folder stays, the lock does not.
func crash(t *testing.T, j *Journal) {
	t.Helper()
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
}

func takeOverNow(t *testing.T, root, id, bundle string) *Journal {
	t.Helper()
	j, err := TakeOver(t.Context(), root, id, bundle)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = j.Close() })
	return j
}

func add(t *testing.T, j *Journal, e Entry, mark Mark) Seq {
	t.Helper()
	seq, err := j.Add(e, mark)
	if err != nil {
		t.Fatal(err)
	}
	return seq
}

func names(root string) []string {
	entries, _ := os.ReadDir(root)
	var all []string
	for _, e := range entries {
		all = append(all, e.Name())
	}
	return all
}

func TestAFolderIsClaimedOnceForEachBundle(t *testing.T) {
	root := filepath.Join(t.TempDir(), "kata")
	first := claim(t, root, "test", "/b/1")
	if want := filepath.Join(root, "test"); first.Dir() != want {
		t.Errorf("folder %s, want %s", first.Dir(), want)
	}
	if _, err := Claim(root, Header{ID: "test", Bundle: "/b/1"}); !errors.Is(err, fs.ErrExist) {
		t.Errorf("claiming twice gave %v, want it to exist", err)
	}
	second := claim(t, root, "test", "/b/2")
	for _, want := range []*Journal{first, second} {
		dir, header, err := Find(root, "test", want.Header().Bundle)
		if err != nil || dir != want.Dir() || header.Bundle != want.Header().Bundle {
			t.Errorf("find %s gave %s, %+v, %v", want.Header().Bundle, dir, header, err)
		}
	}
	if _, _, err := Find(root, "test", "/b/3"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a bundle that never ran gave %v", err)
	}
	if got := names(root); len(got) != 2 {
		t.Errorf("in the root there are %q", got)
	}
}

func TestIDsThatAreNoNamesAreRefused(t *testing.T) {
	for _, id := range []string{"", "a/b", "..", ".hidden", "a\x00b", strings.Repeat("x", MaxID+1)} {
		if _, err := Claim(t.TempDir(), Header{ID: id}); err == nil {
			t.Errorf("id %q was accepted", id)
		}
	}
}

// Starts under one id at once: one has the folder, and nobody removes it from
// under the one that has it.
func TestStartsUnderOneIDNeverRemoveEachOthersFolder(t *testing.T) {
	root := t.TempDir()
	for round := range 100 {
		var holders, won atomic.Int32
		var all sync.WaitGroup
		for n := range 4 {
			all.Go(func() {
				h := Header{ID: "test", Bundle: "/b"}
				j, err := Claim(root, h)
				if errors.Is(err, fs.ErrExist) { // what a start does: clean up after the dead
					ended, cancel := context.WithCancel(t.Context())
					cancel()
					if left, takeErr := TakeOver(ended, root, h.ID, h.Bundle); takeErr == nil {
						err = errors.Join(left.ReleaseAll(t.Context()), left.Remove())
						if err == nil {
							j, err = Claim(root, h)
						}
					}
				}
				if err != nil {
					return
				}
				won.Add(1)
				if holders.Add(1) != 1 {
					t.Errorf("round %d: two hold the folder", round)
				}
				if _, err := j.Add(Socket{Path: filepath.Join(j.Dir(), "s")}, Plain); err != nil {
					t.Errorf("round %d: %v", round, err)
				}
				if _, records, err := Read(j.Dir()); err != nil || len(records) != 1 {
					t.Errorf("round %d: its folder holds %v, %v", round, records, err)
				}
				holders.Add(-1)
				if n%2 == 0 { // the others are killed
					if err := errors.Join(j.ReleaseAll(t.Context()), j.Remove()); err != nil {
						t.Errorf("round %d: %v", round, err)
					}
				} else if err := j.Close(); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
		if won.Load() == 0 {
			t.Errorf("round %d: nobody got the folder", round)
		}
	}
	if left, err := TakeOver(t.Context(), root, "test", "/b"); err == nil {
		if err := errors.Join(left.ReleaseAll(t.Context()), left.Remove()); err != nil {
			t.Error(err)
		}
	}
	if got := names(root); len(got) != 0 {
		t.Errorf("left in the root: %q", got)
	}
}

func TestAFolderThatWasNeverFinishedGoesWithTheNextClaim(t *testing.T) {
	root := t.TempDir()
	dead := sleeper(t)
	id := identify(t, dead)
	_ = dead.Process.Kill()
	_ = dead.Wait()
	for _, name := range []string{fmt.Sprintf(".test.%d.%d.77", id.PID, id.StartTime), ".test.odd", ".test.a.b.c"} {
		if err := os.Mkdir(filepath.Join(root, name), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	claim(t, root, "test", "/b")
	if diff := cmp.Diff([]string{".test.a.b.c", ".test.odd", "test"}, names(root)); diff != "" {
		t.Error(diff)
	}
}

func TestASandboxThatIsHeldIsNotTakenOver(t *testing.T) {
	root := t.TempDir()
	j := claim(t, root, "test", "/b")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := TakeOver(ctx, root, "test", "/b"); !errors.Is(err, ErrHeld) {
		t.Errorf("take over of a living one gave %v", err)
	}
	crash(t, j)
	takeOverNow(t, root, "test", "/b")
}

// everyKind has one entry of each kind that there is.
var everyKind = []Entry{
	Process{Name: "vmm", ID: process.ID{PID: 7, StartTime: 9}, RunsGuest: true},
	Mount{Target: "/a", Over: 3, Namespace: Namespace{1, 2}},
	Socket{Path: "/s"}, Directory{Path: "/d"}, Container{ID: "c"},
	Tap{Name: "tap0", Netns: "/n"}, Netns{Mount{Target: "/n"}}, Cgroup{Path: "/g"}, CgroupDirs{Paths: []string{"/g", "/g/c"}},
	Poststop{Hooks: []specs.Hook{{Path: "/bin/true", Args: []string{"true"}}}, State: specs.State{ID: "c"}},
}

func TestEntriesSurviveTheProcess(t *testing.T) {
	root := t.TempDir()
	j := claim(t, root, "test", "/b")
	var want []Record
	for i, e := range everyKind {
		mark := []Mark{Plain, UsedByGuest}[i%2]
		want = append(want, Record{add(t, j, e, mark), mark, e})
	}
	if len(everyKind) != len(kinds) {
		t.Errorf("%d kinds are tried, there are %d", len(everyKind), len(kinds))
	}
	_, got, err := Read(j.Dir())
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("%v\n%s", err, diff)
	}
	want[0].Entry = Process{Name: "vmm", ID: process.ID{PID: 8, StartTime: 10}}
	if err := j.Amend(want[0].Seq, want[0].Entry); err != nil {
		t.Fatal(err)
	}
	if err := j.Forget(want[2].Seq); err != nil {
		t.Fatal(err)
	}
	want = append(want[:2:2], want[3:]...)
	crash(t, j)
	again := takeOverNow(t, root, "test", "/b")
	if diff := cmp.Diff(want, again.Records()); diff != "" {
		t.Error(diff)
	}
	if seq := add(t, again, Socket{Path: "/x"}, Plain); seq != want[len(want)-1].Seq+1 {
		t.Errorf("the next entry has number %d", seq)
	}
}

func TestAFileThatGrowsOfForgottenEntriesIsWrittenAnew(t *testing.T) {
	j := claim(t, t.TempDir(), "test", "/b")
	keep := add(t, j, Socket{Path: "/kept"}, Plain)
	for range 2000 {
		if err := j.Forget(add(t, j, Socket{Path: "/s"}, Plain)); err != nil {
			t.Fatal(err)
		}
	}
	info, err := os.Stat(filepath.Join(j.Dir(), fileName))
	if err != nil || info.Size() > 20<<10 {
		t.Errorf("the file has %d bytes, %v", info.Size(), err)
	}
	_, got, err := Read(j.Dir())
	if err != nil || len(got) != 1 || got[0].Seq != keep {
		t.Errorf("it says %v, %v", got, err)
	}
}

func TestALineThatWasCutOffCountsForNothing(t *testing.T) {
	root := t.TempDir()
	j := claim(t, root, "test", "/b")
	add(t, j, Socket{Path: "/s"}, Plain)
	crash(t, j)
	name := filepath.Join(j.Dir(), fileName)
	whole, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, append(whole, `{"seq":2,"kind":"soc`...), 0o600); err != nil {
		t.Fatal(err)
	}
	again := takeOverNow(t, root, "test", "/b")
	add(t, again, Socket{Path: "/t"}, Plain)
	_, records, err := Read(again.Dir())
	if err != nil || len(records) != 2 {
		t.Errorf("it says %v, %v", records, err)
	}
}

func TestWhatCannotBeReadIsAnErrorAndStays(t *testing.T) {
	for name, text := range map[string]string{
		"another version": `{"version":1,"id":"test"}` + "\n",
		"an unknown kind": `{"version":2,"id":"test"}` + "\n" + `{"seq":1,"kind":"moon","entry":{}}` + "\n",
		"no JSON":         "hello\n",
		"half a header":   `{"version":2`,
		"a broken line":   `{"version":2,"id":"test"}` + "\n{\n",
	} {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			dir := filepath.Join(root, "test")
			if err := os.Mkdir(dir, 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, fileName), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := TakeOver(t.Context(), root, "test", "/b"); err == nil || errors.Is(err, ErrHeld) {
				t.Errorf("taken over with %v", err)
			}
			if !dirExists(dir) {
				t.Error("the folder is gone")
			}
		})
	}
}

func TestAFolderWithoutAJournalHoldsNothing(t *testing.T) {
	root := t.TempDir()
	if err := os.Mkdir(filepath.Join(root, "test"), 0o700); err != nil {
		t.Fatal(err)
	}
	j := takeOverNow(t, root, "test", "/b")
	if err := j.Remove(); err != nil || len(names(root)) != 0 {
		t.Errorf("removal gave %v; left: %q", err, names(root))
	}
}

func TestAnEntryThatCannotBeWrittenIsNotHeld(t *testing.T) {
	j := claim(t, t.TempDir(), "test", "/b")
	crash(t, j)
	if _, err := j.Add(Socket{Path: "/s"}, Plain); !errors.Is(err, os.ErrClosed) {
		t.Errorf("adding gave %v", err)
	}
	if got := j.Records(); len(got) != 0 {
		t.Errorf("it holds %v", got)
	}
}

func TestAFailedReleaseStaysAndIsTriedAgain(t *testing.T) {
	root := t.TempDir()
	j := claim(t, root, "test", "/b")
	path := filepath.Join(root, "s")
	if err := os.WriteFile(path, nil, 0o600); err != nil { // a file where a socket should be
		t.Fatal(err)
	}
	other := listen(t, filepath.Join(root, "other"))
	add(t, j, Socket{Path: other}, Plain)
	add(t, j, Socket{Path: path}, Plain)
	if err := j.ReleaseAll(t.Context()); err == nil || !strings.Contains(err.Error(), "no socket") {
		t.Errorf("release gave %v", err)
	}
	if err := j.Remove(); err == nil {
		t.Error("the folder was removed although something is held")
	}
	crash(t, j)
	again := takeOverNow(t, root, "test", "/b")
	if got := again.Records(); len(got) != 1 || got[0].Entry != (Socket{Path: path}) {
		t.Fatalf("left are %v", got)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(again.ReleaseAll(t.Context()), again.Remove(), again.Remove()); err != nil {
		t.Error(err)
	}
	if got := names(root); len(got) != 0 {
		t.Errorf("left in the root: %q", got)
	}
}

func TestProcessesEndFirstAndNothingOfALivingGuestIsTakenAway(t *testing.T) {
	root := t.TempDir()
	j := claim(t, root, "test", "/b")
	vmm := identify(t, sleeper(t))
	used, free := listen(t, filepath.Join(root, "used")), listen(t, filepath.Join(root, "free"))
	add(t, j, Process{Name: "vmm", ID: vmm, RunsGuest: true}, Plain)
	add(t, j, Socket{Path: used}, UsedByGuest)
	add(t, j, Socket{Path: free}, Plain)
	var err error
	withoutDescriptors(t, func() { err = j.ReleaseAll(t.Context()) })
	if !errors.Is(err, ErrGuestRuns) {
		t.Errorf("release gave %v", err)
	}
	if !exists(used) || exists(free) {
		t.Errorf("the guest's is there: %v, the other: %v", exists(used), exists(free))
	}
	if err := j.ReleaseAll(t.Context()); err != nil || exists(used) || vmm.Alive() {
		t.Errorf("release gave %v; there: %v; alive: %v", err, exists(used), vmm.Alive())
	}
}

// A process that had the pid before is not the one that is killed.
func TestOnlyTheProcessItselfIsKilled(t *testing.T) {
	j := claim(t, t.TempDir(), "test", "/b")
	other := identify(t, sleeper(t))
	before := process.ID{PID: other.PID, StartTime: other.StartTime - 1}
	add(t, j, Process{Name: "gone", ID: before}, Plain)
	add(t, j, Process{Name: "never started"}, Plain)
	if err := j.ReleaseAll(t.Context()); err != nil || !other.Alive() || len(j.Records()) != 0 {
		t.Errorf("release gave %v; alive: %v; left %v", err, other.Alive(), j.Records())
	}
}

// withoutDescriptors runs f while no descriptor can be opened, so that no process
// can be waited for.
func withoutDescriptors(t *testing.T, f func()) {
	t.Helper()
	var before unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &before); err != nil {
		t.Fatal(err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 3, Max: before.Max}); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &before); err != nil {
			t.Error(err)
		}
	}()
	f()
}

func exists(path string) bool { _, err := os.Lstat(path); return err == nil }

func listen(t *testing.T, path string) string {
	t.Helper()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	t.Cleanup(func() { _ = l.Close() })
	return path
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

func identify(t *testing.T, cmd *exec.Cmd) process.ID {
	t.Helper()
	id, err := process.Identify(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	return id
}
