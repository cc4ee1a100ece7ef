// Package csipb holds the volume statistics that the agent answers, in the
// shape of the Container Storage Interface. It is generated from
// api/proto/csi.proto.
package csipb
