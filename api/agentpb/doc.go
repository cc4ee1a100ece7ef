// Package agentpb holds the messages of grpc.AgentService, the API of the agent
// in the guest, with a typed client and typed registration of handlers for it.
// It is generated from api/proto/agent.proto, which says what each field means;
// behaviour is the agent's (guest/agent), transport is package ttrpc's.
//
// Getters work on nil messages and answer zero values. Decoded messages share
// no memory with the bytes they came from, and unknown fields are dropped.
package agentpb
