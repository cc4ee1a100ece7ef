package ttrpc_test

import (
	"context"
	"testing"

	"kata/api/ttrpc"
)

func TestConnectionOfIsOfTheConnection(t *testing.T) {
	seen := make(chan context.Context, 1)
	s := ttrpc.NewServer(ttrpc.ServerOptions{})
	handle(s, "See", func(ctx context.Context, _ string) (string, error) {
		seen <- ttrpc.ConnectionOf(ttrpc.WithMetadata(ctx))
		return "", nil
	})
	see := func(c *ttrpc.Client) context.Context {
		t.Helper()
		if _, err := call(t.Context(), c, "See", ""); err != nil {
			t.Fatal(err)
		}
		return <-seen
	}
	one, two := connect(t, s), connect(t, s)
	first := see(one)
	if again := see(one); again != first {
		t.Error("two calls of a connection have two")
	}
	if other := see(two); other == first {
		t.Error("two connections have the same")
	}
	if err := first.Err(); err != nil {
		t.Errorf("it has ended with the call: %v", err)
	}
	if err := one.Close(); err != nil {
		t.Fatal(err)
	}
	<-first.Done() // or the test never ends
}

func TestConnectionOfOutsideAHandler(t *testing.T) {
	if got := ttrpc.ConnectionOf(t.Context()); got != context.Background() {
		t.Errorf("ConnectionOf: %v", got)
	}
}
