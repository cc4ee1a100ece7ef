// Package schema holds the compiled .proto files of the agent's API, for programs
// that link protobuf's reflection: kata-agent-ctl, and the test that compares our
// encoding with the reference implementation's. The agent does not import it.
package schema

import _ "embed" // the compiled schema

//go:embed schema.binpb
var compiled string

// Compiled returns a serialized google.protobuf.FileDescriptorSet of all files,
// each after those that it imports.
func Compiled() []byte { return []byte(compiled) }
