// Package api is the wire between the host and the guest of a pod.
//
// The schema is in proto/: the agent's services with upstream's names and
// numbers (agent, health) and what their messages are made of (oci, types,
// csi). The packages agentpb, healthpb, ocipb, typespb and csipb hold the
// messages generated from it, package ttrpc carries them. Both wings import
// these packages and nothing of each other.
//
// The generator is tools/protogen, a module of its own; it needs no protoc.
// TestGenerated fails when the generated files are not what the schema says.
package api

//go:generate go -C ../tools/protogen run .
