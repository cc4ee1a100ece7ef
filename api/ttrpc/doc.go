// Package ttrpc carries unary calls between the two wings of a pod: the host's
// shim calls the agent in the guest over one stream connection. It speaks the
// protocol of containerd/ttrpc, so that upstream's agent and tools are peers
// too, and it is small enough for an agent of a few megabytes: no net, no
// reflection, no logging.
//
// A frame is a header of 10 bytes (length of the body, stream id, message type,
// flags; big endian) and a body of at most 4 MiB. A request body is the
// protobuf message Request{service, method, payload, timeout_nano, metadata}, a
// response body Response{status, payload}. Stream ids are odd and increase.
//
// Messages are the generated ones of agentpb and its sisters, which also hold a
// typed client and typed registration for each service:
//
//	srv := ttrpc.NewServer(ttrpc.ServerOptions{})
//	reg := agentpb.RegisterAgentService(srv)
//	reg.StartContainer(func(ctx context.Context, req *agentpb.StartContainerRequest) (*agentpb.Empty, error) { … })
//	err := srv.Serve(ctx, listener)
//
//	client := ttrpc.NewClient(conn)
//	defer client.Close()
//	_, err := agentpb.NewAgentServiceClient(client).StartContainer(ctx, req)
//
// It has no streams of messages: what flows (standard output, logs) has
// connections of its own. It has no retries and no reconnection: a client dies
// with its connection and says so by Done. ttRPC has no message for cancelling;
// a caller that gives up leaves the handler running until its deadline, which
// travels with the request, or until the connection closes.
package ttrpc

// Message is what a client sends and receives: a generated message.
//
// Unmarshalling must not keep the bytes that it is given.
type Message interface {
	Answer
	// UnmarshalVT decodes into the message.
	UnmarshalVT([]byte) error
}

// Answer is what a server sends: the half of a message that encodes.
type Answer interface {
	// SizeVT returns the size of the encoded message in bytes.
	SizeVT() int
	// MarshalToSizedBufferVT encodes into the end of a buffer of at least
	// SizeVT bytes and returns how many it took.
	MarshalToSizedBufferVT([]byte) (int, error)
}

// Tracked is an answer that is told what became of it.
type Tracked interface {
	Answer
	// Sent is called once the connection has taken the answer, or with the
	// reason why it has not. Answers are written one after the other: what is
	// answered after Sent has been called comes later on the same connection.
	// It must not block.
	Sent(err error)
}
