// Package api is the wire between the host and the guest of a pod.
//
// The schema is in proto/: the agent's services with upstream's names and
// numbers (agent, health) and what their messages are made of (oci, types,
// csi). The packages agentpb, healthpb, ocipb, typespb and csipb hold the
// messages generated from it, package wire is their encoding,
// package schema the compiled .proto files for programs with reflection, package ttrpc
// carries them. This package holds the rest of what both sides have to agree on:
// ports, the tag of the share, paths in the guest. Both wings import these packages and nothing of each other.
//
// The generator is tools/protogen, a module of its own; it needs no protoc. It
// takes the types and getters from protobuf-go-lite's generator and adds an
// encoding on package wire and typed clients and registrars on package ttrpc.
// TestGenerated fails when the generated files are not what the schema says,
// TestUpstream when the schema is not upstream's, TestEncoding when messages
// are not encoded as the reference implementation does.
package api

//go:generate go -C ../tools/protogen run .
