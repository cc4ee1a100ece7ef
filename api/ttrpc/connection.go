package ttrpc

import "context"

type connectionKey struct{}

// ConnectionOf returns the context of the connection that a request came on,
// given what its handler got: it ends with the connection, not with the call, and
// is the same for all calls of the connection. Outside a handler it is the
// background context.
func ConnectionOf(ctx context.Context) context.Context {
	if conn, ok := ctx.Value(connectionKey{}).(context.Context); ok {
		return conn
	}
	return context.Background()
}
