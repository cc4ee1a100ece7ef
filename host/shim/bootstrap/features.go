package bootstrap

import (
	"encoding/json"
	"fmt"

	"github.com/opencontainers/runtime-spec/specs-go/features"
	"google.golang.org/protobuf/types/known/anypb"
)

// featuresType is the name by which containerd knows the OCI features structure,
// which it carries as JSON.
const featuresType = "types.containerd.io/opencontainers/runtime-spec/1/features/Features"

// describeFeatures tells what a container can ask for, in the form of the OCI
// runtime specification (features.md). It is true to what the guest does, not to
// the host: there the cgroups are of version 2, and no security module is asked for.
func describeFeatures() *features.Features {
	yes, no := true, false
	return &features.Features{
		OCIVersionMin: "1.0.0",
		OCIVersionMax: "1.3.0",
		Hooks:         []string{"prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"},
		MountOptions:  mountOptions(),
		Linux: &features.Linux{
			Namespaces: []string{"cgroup", "ipc", "mount", "network", "pid", "time", "user", "uts"},
			Cgroup:     &features.Cgroup{V1: &no, V2: &yes, Systemd: &no, SystemdUser: &no, Rdma: &no},
			Seccomp:    &features.Seccomp{Enabled: &yes},
			Apparmor:   &features.Apparmor{Enabled: &no},
			Selinux:    &features.Selinux{Enabled: &no},
			IntelRdt:   &features.IntelRdt{Enabled: &no},
			MountExtensions: &features.MountExtensions{
				IDMap: &features.IDMap{Enabled: &yes},
			},
			NetDevices: &features.NetDevices{Enabled: &no},
		},
	}
}

// mountOptions are those that the agent knows (guest/storage/mount): each of the
// attributes for one mount and, with an r before it, for a tree.
func mountOptions() []string {
	var all []string
	for _, option := range []string{
		"atime", "dev", "diratime", "exec", "noatime", "nodev", "nodiratime", "noexec", "norelatime", "nostrictatime",
		"nosuid", "nosymfollow", "relatime", "ro", "rw", "strictatime", "suid", "symfollow",
	} {
		all = append(all, option, "r"+option)
	}
	for _, option := range []string{"private", "shared", "slave", "unbindable"} {
		all = append(all, option, "r"+option)
	}
	return append(all, "bind", "rbind", "idmap", "ridmap", "tmpcopyup", "defaults", "remount")
}

// packedFeatures is what RuntimeInfo carries.
func packedFeatures() (*anypb.Any, error) {
	value, err := json.Marshal(describeFeatures())
	if err != nil {
		return nil, fmt.Errorf("encode the features: %w", err)
	}
	return &anypb.Any{TypeUrl: featuresType, Value: value}, nil
}
