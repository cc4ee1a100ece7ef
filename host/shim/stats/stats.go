// Package stats turns the agent's statistics of a container into the message
// that containerd expects from a runtime on this host: its metrics service
// takes one of cgroup v1 on a host with v1 or hybrid cgroups, and one of v2 on
// a unified host, whatever the guest has.
//
// The conversion is a pure function. Every nested message is present, because
// consumers of these messages read through them without looking.
package stats

import (
	"fmt"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"kata/api/agentpb"
)

// Layout is the kind of cgroup file system that the host has.
type Layout int

// The layouts.
const (
	V1 Layout = iota // version 1, or both (hybrid)
	V2               // version 2 alone (unified)
)

// HostLayout looks at the host as containerd does.
func HostLayout() Layout {
	var fs unix.Statfs_t
	if err := unix.Statfs("/sys/fs/cgroup", &fs); err == nil && fs.Type == unix.CGROUP2_SUPER_MAGIC {
		return V2
	}
	return V1
}

// Encode converts resp for a host of the given layout. The result is typed as
// containerd's registry knows it.
func Encode(resp *agentpb.StatsContainerResponse, layout Layout) (*anypb.Any, error) {
	var metrics proto.Message = toV1(resp)
	if layout == V2 {
		metrics = toV2(resp)
	}
	value, err := proto.Marshal(metrics)
	if err != nil {
		return nil, fmt.Errorf("encode statistics: %w", err)
	}
	return &anypb.Any{TypeUrl: string(proto.MessageName(metrics)), Value: value}, nil
}

// first returns the value of the first of the keys that stat has: cgroup v2's
// name, and v1's for an agent on such a guest.
func first(stat map[string]uint64, keys ...string) uint64 {
	for _, key := range keys {
		if n, ok := stat[key]; ok {
			return n
		}
	}
	return 0
}
