package tasktest

import (
	"testing"

	"kata/host/shim/task"
)

func TestTheFakeIsASandbox(t *testing.T) {
	Run(t, func(*testing.T) (task.Sandbox, func(error)) {
		s := New(new(Behaviour))
		return s, s.Die
	})
}
