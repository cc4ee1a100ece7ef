package fault

import (
	"errors"
	"fmt"
	"io"
	"strings"
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

func TestWhereAFieldIs(t *testing.T) {
	for want, err := range map[string]error{
		`routes[2].dest "x" is wrong`:            In("routes", Field("[2].dest", `"x"`, "is wrong")),
		`interface.mtu "7" is small`:             In("interface", Field("mtu", `"7"`, "is small")),
		"pod.interface.mtu: EOF":                 In("pod", In("interface", &Error{Kind: Invalid, Field: "mtu", Cause: io.EOF})),
		"interface: not running":                 In("interface", New(State, "not running")),
		"interface: EOF":                         In("interface", io.EOF),
		"interface: number 3: no such thing":     In("interface", fmt.Errorf("number 3: %w", New(NotFound, "no such thing"))),
		`interface: eth0: mtu "7" is small`:      In("interface", fmt.Errorf("eth0: %w", Field("mtu", `"7"`, "is small"))),
		"routes: delete route: invalid argument": In("routes", &Error{Kind: Invalid, Cause: errors.New("delete route: invalid argument")}),
	} {
		if err.Error() != want {
			t.Errorf("got %q, want %q", err, want)
		}
	}
	inner := New(NotFound, "no such thing")
	if err := In("a", fmt.Errorf("b: %w", inner)); !errors.Is(err, NotFound) || errors.Is(err, Invalid) || !errors.Is(err, inner) {
		t.Errorf("%v is not what it was", err)
	}
	if err := In("a", Field("b", "", "is missing")); !errors.Is(err, Invalid) {
		t.Errorf("%v is not what it was", err)
	}
}

func TestLongTextsAreCut(t *testing.T) {
	if got := Quote("a\n"); got != `"a\n"` {
		t.Error(got)
	}
	if got, want := Quote(strings.Repeat("x", 1000)), `"`+strings.Repeat("x", maxShown)+`"… (1000 bytes)`; got != want {
		t.Error(got)
	}
}
