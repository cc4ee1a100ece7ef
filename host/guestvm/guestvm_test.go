package guestvm_test

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"kata/api"
	"kata/host/guestvm"
	"kata/host/guestvm/guestvmtest"
	"kata/host/journal"
	"kata/host/process"
	"kata/host/undo"
	"kata/host/vmm"
	"kata/test/leaktest"
)

func TestMain(m *testing.M) { os.Exit(leaktest.Run(m, "kata/host/guestvm.")) }

// limit is longer than anything here takes.
const limit = time.Minute

func boot(t *testing.T, parts *guestvmtest.Parts, share bool) (*guestvm.VM, *undo.Stack, error) {
	t.Helper()
	stack := undo.New(new(undo.Memory))
	t.Cleanup(func() {
		if err := stack.Run(context.Background()); err != nil || !stack.Empty() {
			t.Errorf("release: %v", err)
		}
	})
	v, err := guestvm.Boot(t.Context(), guestvm.Config{
		Machine: vmm.Spec{ID: "test", Dir: t.TempDir()}, Share: share, StopTimeout: limit, Log: slog.New(slog.DiscardHandler),
	}, parts, stack)
	return v, stack, err
}

func TestAGuestWithoutAShare(t *testing.T) {
	parts := guestvmtest.NewParts()
	v, stack, err := boot(t, parts, false)
	if err != nil {
		t.Fatal(err)
	}
	if v.Files() != nil || parts.FileServer != nil || len(parts.Spec.Shares) != 0 {
		t.Errorf("it shares files: %+v", parts.Spec.Shares)
	}
	conn, err := v.Dial(t.Context(), api.PortAgent)
	if err != nil {
		t.Fatal(err)
	}
	_ = conn.Close()
	if err := stack.Run(t.Context()); err != nil {
		t.Error(err)
	}
	<-v.Gone()
	select {
	case <-v.Done():
		t.Errorf("an end that was asked for counts as one of its own: %v", v.Err())
	default:
	}
}

func TestTheGuestOfAShareGetsIt(t *testing.T) {
	parts := guestvmtest.NewParts()
	if _, _, err := boot(t, parts, true); err != nil {
		t.Fatal(err)
	}
	if len(parts.Spec.Shares) != 1 || parts.Spec.Shares[0].Tag != api.ShareTag || parts.Spec.Vsock == nil {
		t.Errorf("the machine is %+v", parts.Spec)
	}
}

// Every process of the machine is killed when its orderly end fails.
func TestAllProcessesOfTheMachineAreHeld(t *testing.T) {
	parts := guestvmtest.NewParts()
	var ids []process.ID
	for range 2 {
		cmd := exec.Command("sleep", "600")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		})
		id, err := process.Identify(cmd.Process.Pid)
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, id)
	}
	parts.Processes = ids
	_, stack, err := boot(t, parts, true)
	if err != nil {
		t.Fatal(err)
	}
	parts.Faults.Fail("machine.stop", 1, errors.New("it does not answer"))
	if err := stack.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "does not answer") {
		t.Errorf("release gave %v", err)
	}
	for _, id := range ids {
		if id.Alive() {
			t.Errorf("process %s is alive", id)
		}
	}
}

func TestAMachineThatDiesDuringTheBootEndsIt(t *testing.T) {
	parts := guestvmtest.NewParts()
	parts.Guest = func(ctx context.Context, _ guestvmtest.Guest) {
		parts.VMM.Say("no init found")
		go parts.VMM.Die(errors.New("the kernel panicked"))
		<-ctx.Done()
	}
	_, _, err := boot(t, parts, false)
	if err == nil || !strings.Contains(err.Error(), "wait for the agent") || !strings.Contains(err.Error(), "the kernel panicked") {
		t.Errorf("boot gave %v", err)
	}
}

// A journal that takes no entry keeps the thing from being acquired.
func TestNothingIsAcquiredThatIsNotWrittenDown(t *testing.T) {
	for n := range 8 {
		parts := guestvmtest.NewParts()
		full := &fullJournal{room: n}
		stack := undo.New(full)
		_, err := guestvm.Boot(t.Context(), guestvm.Config{
			Machine: vmm.Spec{ID: "test", Dir: t.TempDir()}, Share: true, StopTimeout: limit, Log: slog.New(slog.DiscardHandler),
		}, parts, stack)
		tried := len(parts.Faults.Tried())
		if releaseErr := stack.Run(context.Background()); releaseErr != nil {
			t.Error(releaseErr)
		}
		if n < 6 && (!errors.Is(err, errFull) || n == 0 && tried > 1) {
			t.Errorf("with room for %d: %v after %q", n, err, parts.Faults.Tried())
		}
		if n >= 6 && err != nil {
			t.Errorf("with room for %d: %v", n, err)
		}
	}
}

var errFull = errors.New("no space left on device")

type fullJournal struct {
	undo.Memory
	room int
}

func (j *fullJournal) Add(e journal.Entry, mark journal.Mark) (journal.Seq, error) {
	if j.room--; j.room < 0 {
		return 0, errFull
	}
	return j.Memory.Add(e, mark)
}
