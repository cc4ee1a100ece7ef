package task_test

import (
	"testing"

	"github.com/containerd/containerd/api/events"
	api "github.com/containerd/containerd/api/runtime/task/v3"
	"google.golang.org/protobuf/proto"

	"kata/host/shim/task/tasktest"
)

// Every answer and event about a process has the pid that stands for it on the
// host; an exec has none before its start.
func TestAProcessHasOnePidInAnswersAndEvents(t *testing.T) {
	w := newWorld(t)
	told := map[string]uint32{}
	publish := w.publish
	w.SetPublish(func(topic string, e proto.Message) {
		if with, ok := e.(interface{ GetPid() uint32 }); ok {
			if exit, isExit := e.(*events.TaskExit); isExit {
				topic += " " + exit.ID
			}
			told[topic] = with.GetPid()
		}
		publish(topic, e)
	})
	created, err := w.Create(t.Context(), &api.CreateTaskRequest{ID: "c1", Bundle: bundle(t)})
	if err != nil {
		t.Fatal(err)
	}
	state := func(exec string) uint32 {
		r, err := w.State(t.Context(), &api.StateRequest{ID: "c1", ExecID: exec})
		if err != nil {
			t.Fatal(err)
		}
		return r.Pid
	}
	connected, err := w.Connect(t.Context(), &api.ConnectRequest{ID: "c1"})
	if err != nil {
		t.Fatal(err)
	}
	started, err := w.Start(t.Context(), &api.StartRequest{ID: "c1"})
	if err != nil {
		t.Fatal(err)
	}
	w.exec("c1", "e1")
	before := state("e1")
	exec, err := w.Start(t.Context(), &api.StartRequest{ID: "c1", ExecID: "e1"})
	if err != nil {
		t.Fatal(err)
	}
	w.process("c1", "e1").End(0)
	w.wait("c1", "e1")
	w.process("c1", "").End(0)
	w.wait("c1", "")
	deletedExec, deleted := w.remove("c1", "e1"), w.remove("c1", "")

	const first, execPID = tasktest.FirstPID, tasktest.ExecPID + 1
	for what, pids := range map[string][2]uint32{
		"the answer to Create":         {created.Pid, first},
		"the task's, to Connect":       {connected.TaskPid, first},
		"the shim's, to Connect":       {connected.ShimPid, 4711},
		"the answer to Start":          {started.Pid, first},
		"an exec before its start":     {before, 0},
		"the exec's start":             {exec.Pid, execPID},
		"the exec's deletion":          {deletedExec.Pid, execPID},
		"the deletion":                 {deleted.Pid, first},
		"the event of the creation":    {told["/tasks/create"], first},
		"the event of the start":       {told["/tasks/start"], first},
		"the event of the exec":        {told["/tasks/exec-started"], execPID},
		"the event of the exec's exit": {told["/tasks/exit e1"], execPID},
		"the event of the exit":        {told["/tasks/exit c1"], first},
		"the event of the deletion":    {told["/tasks/delete"], first},
	} {
		if pids[0] != pids[1] {
			t.Errorf("%s: pid %d, want %d", what, pids[0], pids[1])
		}
	}
}
