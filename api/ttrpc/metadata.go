package ttrpc

import "context"

// Pair is one key and value that travels beside a request, such as a trace id.
// Keys may repeat.
type Pair struct{ Key, Value string }

type metadataKey struct{}

// WithMetadata returns a context whose calls carry the pairs, in place of any
// it had. A server takes at most 128.
func WithMetadata(ctx context.Context, pairs ...Pair) context.Context {
	return context.WithValue(ctx, metadataKey{}, pairs)
}

// MetadataOf returns the pairs that came with the request whose handler got
// ctx, or that WithMetadata put there. The caller does not change them.
func MetadataOf(ctx context.Context) []Pair {
	pairs, _ := ctx.Value(metadataKey{}).([]Pair)
	return pairs
}
