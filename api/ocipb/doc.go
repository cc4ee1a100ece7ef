// Package ocipb holds the OCI runtime specification as it travels to the agent.
// It is generated from api/proto/oci.proto, which says where it goes beyond
// upstream's schema. It is not the JSON form; the host converts.
package ocipb
