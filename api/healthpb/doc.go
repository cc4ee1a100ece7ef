// Package healthpb holds the messages of grpc.Health, which says whether the
// agent serves and which version it is, with a typed client and registration.
// It is generated from api/proto/health.proto.
package healthpb
