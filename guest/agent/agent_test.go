package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"kata/api/ttrpc"
	"kata/guest/container"
	"kata/guest/fault"
	"kata/guest/sandbox"
	"kata/guest/storage"
)

func TestErrorsGetTheCodeOfTheirKind(t *testing.T) {
	for _, tt := range []struct {
		err  error
		want ttrpc.Code
	}{
		{fmt.Errorf("container: %w", sandbox.ErrNotFound), ttrpc.NotFound},
		{fmt.Errorf("container: %w", sandbox.ErrExists), ttrpc.AlreadyExists},
		{fmt.Errorf("container: %w", sandbox.ErrState), ttrpc.FailedPrecondition},
		{fmt.Errorf("container: %w", sandbox.ErrLimit), ttrpc.ResourceExhausted},
		{fmt.Errorf("exec: %w", container.ErrPaused), ttrpc.FailedPrecondition},
		{fmt.Errorf("exec: %w", container.ErrNotRunning), ttrpc.FailedPrecondition},
		{fmt.Errorf("spec: %w", &fault.Error{Kind: fault.Invalid}), ttrpc.InvalidArgument},
		{fmt.Errorf("storages[0]: %w", &storage.InvalidError{Kind: fault.Invalid}), ttrpc.InvalidArgument},
		{fmt.Errorf("wait: %w", context.DeadlineExceeded), ttrpc.DeadlineExceeded},
		{fmt.Errorf("wait: %w", context.Canceled), ttrpc.Canceled},
		{invalid("len", 0, "reads nothing"), ttrpc.InvalidArgument},
		{io.ErrUnexpectedEOF, ttrpc.Internal},
	} {
		got := Coded(tt.err)
		if ttrpc.CodeOf(got) != tt.want || got.Error() != tt.err.Error() {
			t.Errorf("%v: %v (%v), want %v", tt.err, got, ttrpc.CodeOf(got), tt.want)
		}
	}
}

func TestCheckID(t *testing.T) {
	for _, id := range []string{"a", "0", "web-1.example_x", strings.Repeat("x", maxID)} {
		if err := checkID("container_id", id); err != nil {
			t.Error(err)
		}
	}
	for _, id := range []string{"", ".", "..", "-a", "_a", "a/b", "a b", "a\x00", "ä", strings.Repeat("x", maxID+1)} {
		if err := checkID("exec_id", id); !errors.Is(err, fault.Invalid) || !strings.HasPrefix(err.Error(), "exec_id ") {
			t.Errorf("%q: %v", id, err)
		}
	}
}

func TestParseStat(t *testing.T) {
	const rest = " S 17 1 1 34817 1 4194560 1 2 3 4 150 250 0 0 20 0 1 0 100"
	for _, tt := range []struct {
		name, line string
		want       processInfo
	}{
		{"a plain name", "1 (sh)" + rest, processInfo{ppid: 17, tty: "pts/1", time: 400, command: "[sh]"}},
		{"a name of parentheses and a line feed", "1 (a) R 9 (\n)" + rest, processInfo{ppid: 17, tty: "pts/1", time: 400, command: "[a) R 9 (?]"}},
		{"no terminal", strings.Replace("1 (sh)"+rest, "34817", "0", 1), processInfo{ppid: 17, tty: "?", time: 400, command: "[sh]"}},
	} {
		got, err := parseStat(tt.line)
		if diff := cmp.Diff(tt.want, got, cmp.AllowUnexported(processInfo{})); err != nil || diff != "" {
			t.Errorf("%s: %v %s", tt.name, err, diff)
		}
	}
	for _, line := range []string{"", "1 sh S 1", ")(", "1 (sh)", "1 (sh) S 1 2 3"} {
		if _, err := parseStat(line); err == nil {
			t.Errorf("%q is accepted", line)
		}
	}
}

func TestReadProcessKnowsThisOne(t *testing.T) {
	p, err := readProcess("/proc/self")
	if err != nil {
		t.Fatal(err)
	}
	if p.ppid != uint64(os.Getppid()) || p.uid != uint64(os.Getuid()) || !strings.Contains(p.command, os.Args[0]) {
		t.Errorf("got %+v", p)
	}
	if _, err := readProcess("/proc/0"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a process that is not there: %v", err)
	}
}

func FuzzParseStat(f *testing.F) {
	f.Add("1 (sh) S 17 1 1 34817 1 4194560 1 2 3 4 150 250 0")
	f.Fuzz(func(t *testing.T, line string) {
		p, err := parseStat(line)
		if err == nil && strings.ContainsAny(p.command, "\x00\n\x1b") {
			t.Errorf("command %q", p.command)
		}
	})
}

func TestJSONNumbers(t *testing.T) {
	for want, numbers := range map[string][]int{"[]": nil, "[1]": {1}, "[1,22]": {1, 22}} {
		if got := string(jsonNumbers(numbers)); got != want {
			t.Errorf("jsonNumbers(%v) = %s", numbers, got)
		}
	}
}

func TestWhichCallsWaitAndWhichCostNothing(t *testing.T) {
	for method, want := range map[string]bool{"WaitProcess": true, "GetOOMEvent": true, "ExecProcess": false, "Check": false} {
		if got := Waits("grpc.AgentService", method); got != want {
			t.Errorf("%s waits: %v", method, got)
		}
	}
	if !CostsNothing("grpc.Health", "Check") || CostsNothing("grpc.AgentService", "StatsContainer") {
		t.Error("a health check costs, or statistics do not")
	}
}
