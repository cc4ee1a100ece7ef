package fault

import (
	"errors"
	"fmt"
	"io"
	"testing"
)

func TestErrorsMatchKindAndCause(t *testing.T) {
	for _, tt := range []struct {
		err  error
		want string
		is   []error
	}{
		{Field("devices[0].type", `"floppy"`, "is not one of blk"), `devices[0].type "floppy" is not one of blk`, []error{Invalid}},
		{&Error{Kind: Invalid, Field: "linux.resources.cpu", Cause: io.EOF}, "linux.resources.cpu: EOF", []error{Invalid, io.EOF}},
		{New(State, "not running"), "not running", []error{State}},
		{&Error{Kind: Limit}, "", []error{Limit}},
		{NotFound, "not found", []error{NotFound}},
	} {
		if got := tt.err.Error(); got != tt.want {
			t.Errorf("got %q, want %q", got, tt.want)
		}
		wrapped := fmt.Errorf("create: %w", tt.err)
		for _, is := range tt.is {
			if !errors.Is(wrapped, is) {
				t.Errorf("%v is no %v", wrapped, is)
			}
		}
		if errors.Is(wrapped, Exists) {
			t.Errorf("%v is one that exists", wrapped)
		}
	}
}
