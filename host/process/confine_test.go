package process

import (
	"bufio"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// TestConfinedChildIsHeld reads what the kernel says about a confined child, and
// about one that is started after it and is not.
func TestConfinedChildIsHeld(t *testing.T) {
	s := newSpawner(t)
	confined := launchCat(t, func(cmd *exec.Cmd) (*Child, error) { return s.LaunchConfined(cmd, Confinement{OOMScoreAdj: 123}) })
	free := launchCat(t, s.Launch)

	status := procStatus(t, confined.ID().PID)
	for field, want := range map[string]string{
		"NoNewPrivs": "1", "CapInh": "0000000000000000", "CapPrm": "0000000000000000",
		"CapEff": "0000000000000000", "CapBnd": "0000000000000000", "CapAmb": "0000000000000000",
	} {
		if status[field] != want {
			t.Errorf("%s of a confined child is %s, want %s", field, status[field], want)
		}
	}
	if got := procFile(t, confined.ID().PID, "oom_score_adj"); got != "123" {
		t.Errorf("oom_score_adj is %s, want 123", got)
	}
	if got := procFile(t, confined.ID().PID, "coredump_filter"); strings.Trim(got, "0") != "" {
		t.Errorf("coredump_filter is %s, want 0", got)
	}
	var core unix.Rlimit
	if err := unix.Prlimit(confined.ID().PID, unix.RLIMIT_CORE, nil, &core); err != nil || core.Cur != 0 || core.Max != 0 {
		t.Errorf("RLIMIT_CORE is %+v, %v, want 0", core, err)
	}

	own := procStatus(t, os.Getpid())
	status = procStatus(t, free.ID().PID)
	for _, field := range []string{"NoNewPrivs", "CapBnd", "CapEff"} {
		if status[field] != own[field] {
			t.Errorf("%s of another child is %s, want ours, %s", field, status[field], own[field])
		}
	}
}

// TestConfinedChildCanBeRead reads its memory as the vhost-user devices do.
func TestConfinedChildCanBeRead(t *testing.T) {
	s := newSpawner(t)
	child := launchCat(t, func(cmd *exec.Cmd) (*Child, error) { return s.LaunchConfined(cmd, Confinement{}) })
	maps := procFile(t, child.ID().PID, "maps")
	start, err := strconv.ParseUint(maps[:strings.IndexByte(maps, '-')], 16, 64)
	if err != nil {
		t.Fatal(err)
	}
	magic := make([]byte, 4) // the first mapping is the program's first page
	local := unix.Iovec{Base: unsafe.SliceData(magic), Len: uint64(len(magic))}
	remote := unix.RemoteIovec{Base: uintptr(start), Len: len(magic)}
	if _, err := unix.ProcessVMReadv(child.ID().PID, []unix.Iovec{local}, []unix.RemoteIovec{remote}, 0); err != nil || string(magic) != "\x7fELF" {
		t.Errorf("read %q, %v", magic, err)
	}
}

// TestConfinedChildOfAScoreTooLow must run, whatever this process may do.
func TestConfinedChildOfAScoreTooLow(t *testing.T) {
	s := newSpawner(t)
	child := launchCat(t, func(cmd *exec.Cmd) (*Child, error) { return s.LaunchConfined(cmd, Confinement{OOMScoreAdj: -999}) })
	got, err := strconv.Atoi(procFile(t, child.ID().PID, "oom_score_adj"))
	if err != nil || got != -999 && got < 0 {
		t.Errorf("oom_score_adj is %d, %v, want -999, or 0 and above where that is not allowed", got, err)
	}
}

// TestConfinedChildThatEndsAtOnce says how it ended.
func TestConfinedChildThatEndsAtOnce(t *testing.T) {
	s := newSpawner(t)
	for range 20 {
		child, err := s.LaunchConfined(exec.Command("sh", "-c", "exit 3"), Confinement{})
		if err != nil {
			t.Fatal(err)
		}
		<-child.Done()
		if err := child.Err(); err == nil || !strings.Contains(err.Error(), "exit status 3") {
			t.Errorf("the child's end: %v", err)
		}
	}
}

// launchCat starts a child that lives until the test ends, and returns when its
// program runs.
func launchCat(t *testing.T, launch func(*exec.Cmd) (*Child, error)) *Child {
	t.Helper()
	cmd := exec.Command("cat")
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	child, err := launch(cmd)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		child.Abort()
		<-child.Done()
	})
	if _, err := stdin.Write([]byte("up\n")); err != nil {
		t.Fatal(err)
	}
	if _, err := bufio.NewReader(stdout).ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	return child
}

func procFile(t *testing.T, pid int, name string) string {
	t.Helper()
	text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(text))
}

func procStatus(t *testing.T, pid int) map[string]string {
	t.Helper()
	fields := map[string]string{}
	for line := range strings.Lines(procFile(t, pid, "status")) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		fields[key] = strings.TrimSpace(value)
	}
	return fields
}
