// Package typespb holds the network values that messages of the agent API
// share. It is generated from api/proto/types.proto.
package typespb
