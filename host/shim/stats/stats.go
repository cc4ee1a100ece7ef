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
	"kata/host/untrusted"
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
//
// resp is the guest's word, and is changed: no list keeps more than maxEntries
// entries, no name more than untrusted.MaxID bytes of printable text.
func Encode(resp *agentpb.StatsContainerResponse, layout Layout) (*anypb.Any, error) {
	bound(resp)
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

// maxEntries is more than a well-meaning guest has of interfaces, disks, huge page
// sizes or CPUs.
const maxEntries = 1024

func bound(resp *agentpb.StatsContainerResponse) {
	if resp == nil {
		return
	}
	resp.NetworkStats = head(resp.NetworkStats)
	for _, n := range resp.NetworkStats {
		n.Name = untrusted.Line(n.Name, untrusted.MaxID)
	}
	c := resp.CgroupStats
	if c == nil {
		return
	}
	if usage := c.GetCpuStats().GetCpuUsage(); usage != nil {
		usage.PercpuUsage = head(usage.PercpuUsage)
	}
	if b := c.BlkioStats; b != nil {
		for _, list := range []*[]*agentpb.BlkioStatsEntry{
			&b.IoServiceBytesRecursive, &b.IoServicedRecursive, &b.IoQueuedRecursive, &b.IoServiceTimeRecursive,
			&b.IoWaitTimeRecursive, &b.IoMergedRecursive, &b.IoTimeRecursive, &b.SectorsRecursive,
		} {
			*list = head(*list)
			for _, e := range *list {
				e.Op = untrusted.Line(e.Op, untrusted.MaxID)
			}
		}
	}
	sizes := make(map[string]*agentpb.HugetlbStats)
	for size, h := range c.HugetlbStats {
		if len(sizes) < maxEntries {
			sizes[untrusted.Line(size, untrusted.MaxID)] = h
		}
	}
	c.HugetlbStats = sizes
}

func head[T any](list []T) []T { return list[:min(len(list), maxEntries)] }

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
