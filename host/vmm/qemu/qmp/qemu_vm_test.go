//go:build vm

package qmp

import (
	"context"
	"errors"
	"flag"
	"net"
	"os"
	"os/exec"
	"sync"
	"testing"
	"time"

	"kata/host/process"
)

var update = flag.Bool("update", false, "record transcripts anew")

// startQEMU runs a QEMU without a machine and returns its control channel,
// recorded under a name when asked.
func startQEMU(t *testing.T, name string) *net.UnixConn {
	t.Helper()
	ours, theirs := socketPair(t)
	file, err := theirs.File()
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	theirs.Close()
	spawner := process.NewSpawner()
	t.Cleanup(spawner.Close)
	cmd := exec.Command("qemu-system-x86_64", "-machine", "none", "-S", "-nodefaults", "-no-user-config",
		"-display", "none", "-chardev", "socket,id=qmp,fd=3", "-mon", "chardev=qmp,mode=control")
	cmd.ExtraFiles = []*os.File{file}
	child, err := spawner.Launch(cmd)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := child.Kill(ctx); err != nil {
			t.Error(err)
		}
	})
	if *update && name != "" {
		return record(t, ours, "testdata/"+name+".txt")
	}
	return ours
}

func TestRealQEMU(t *testing.T) {
	for name, conversation := range conversations {
		t.Run(name, func(t *testing.T) { conversation(t, startQEMU(t, name)) })
	}
}

func TestRealQEMUTakesDescriptors(t *testing.T) {
	client := newClient(t, startQEMU(t, ""))
	file, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	args := map[string]any{"fdname": "null"}
	if err := client.ExecuteWithFile(t.Context(), "getfd", args, nil, file); err != nil {
		t.Errorf("getfd: %v", err)
	}
	if err := client.Execute(t.Context(), "closefd", args, nil); err != nil {
		t.Errorf("closefd: %v", err)
	}
	var refusal *Error
	if err := client.Execute(t.Context(), "closefd", args, nil); !errors.As(err, &refusal) {
		t.Errorf("closefd of a closed one: %v", err)
	}
	var set struct {
		FDSet int `json:"fdset-id"`
		FD    int `json:"fd"`
	}
	if err := client.ExecuteWithFile(t.Context(), "add-fd", map[string]any{"fdset-id": 7}, &set, file); err != nil || set.FDSet != 7 {
		t.Errorf("add-fd: %+v, %v", set, err)
	}
}

func TestRealQEMUManyAtOnce(t *testing.T) {
	client := newClient(t, startQEMU(t, ""))
	var group sync.WaitGroup
	for range 50 {
		group.Go(func() {
			var status struct{ Status string }
			if err := client.Execute(t.Context(), "query-status", nil, &status); err != nil || status.Status != "prelaunch" {
				t.Errorf("query-status: %+v, %v", status, err)
			}
			var commands []struct{ Name string }
			if err := client.Execute(t.Context(), "query-commands", nil, &commands); err != nil || len(commands) < 100 {
				t.Errorf("query-commands: %d, %v", len(commands), err)
			}
		})
	}
	group.Wait()
}

func TestRealQEMULargestReply(t *testing.T) {
	client := newClient(t, startQEMU(t, ""))
	var schema []any
	if err := client.Execute(t.Context(), "query-qmp-schema", nil, &schema); err != nil || len(schema) < 1000 {
		t.Errorf("query-qmp-schema: %d entries, %v", len(schema), err)
	}
}
