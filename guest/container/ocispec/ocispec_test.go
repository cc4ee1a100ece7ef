package ocispec

import (
	"errors"
	"testing"

	"kata/api/ocipb"
	"kata/guest/fault"
)

// defaultSpec is a small one that is right.
func defaultSpec() *ocipb.Spec {
	return &ocipb.Spec{
		Version: "1.1.0",
		Process: &ocipb.Process{Args: []string{"sh"}, Cwd: "/", User: &ocipb.User{}, Env: []string{"PATH=/bin"}, OOMScoreAdjUnset: true},
		Root:    &ocipb.Root{Path: "/rootfs"},
		Mounts: []*ocipb.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
			{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
		},
		Linux: &ocipb.Linux{Namespaces: []*ocipb.LinuxNamespace{{Type: "pid"}, {Type: "ipc"}, {Type: "uts"}, {Type: "mount"}, {Type: "network"}}},
	}
}

func addMount(m *ocipb.Mount) func(*ocipb.Spec) {
	return func(s *ocipb.Spec) { s.Mounts = append(s.Mounts, m) }
}

// An absurd spec is refused before anything is made, and the error names the
// field and the value.
func TestAbsurdSpecs(t *testing.T) {
	type ids = []*ocipb.LinuxIDMapping
	users := func(uids, gids ids) func(*ocipb.Spec) {
		return func(s *ocipb.Spec) {
			s.Linux.Namespaces = append(s.Linux.Namespaces, &ocipb.LinuxNamespace{Type: "user"})
			s.Linux.UIDMappings, s.Linux.GIDMappings = uids, gids
		}
	}
	process := func(change func(*ocipb.Process)) func(*ocipb.Spec) {
		return func(s *ocipb.Spec) { change(s.Process) }
	}
	resources := func(r *ocipb.LinuxResources) func(*ocipb.Spec) {
		return func(s *ocipb.Spec) { s.Linux.Resources = r }
	}
	umask := uint32(0o1777)
	all := ids{{Size: 65536, HostID: 1000}}
	for want, change := range map[string]func(*ocipb.Spec){
		"linux.uidMappings has 0 ranges; there must be 1 to 340":                                    users(nil, all),
		"linux.gidMappings has 0 ranges; there must be 1 to 340":                                    users(all, nil),
		"linux.uidMappings[0]: 0 IDs from 0 to 5 are not possible":                                  users(ids{{HostID: 5}}, all),
		"linux.uidMappings[0]: 10 IDs from 4294967290 to 0 are not possible":                        users(ids{{ContainerID: 4294967290, Size: 10}}, all),
		"linux.uidMappings[1]: 5 IDs from 9 to 90 overlap others":                                   users(ids{{Size: 10}, {ContainerID: 9, HostID: 90, Size: 5}}, all),
		"linux.gidMappings[1]: 5 IDs from 90 to 9 overlap others":                                   users(all, ids{{Size: 10}, {ContainerID: 90, HostID: 9, Size: 5}}),
		"linux.uidMappings and gidMappings must have ID 0, which sets the container up":             users(ids{{ContainerID: 1, Size: 10}}, all),
		"linux.uidMappings and gidMappings need a user namespace":                                   func(s *ocipb.Spec) { s.Linux.UIDMappings = all },
		"process.user.uid: user 70000 is not mapped in the user namespace of the container":         func(s *ocipb.Spec) { users(all, all)(s); s.Process.User.UID = 70000 },
		"process.user 4294967295:0 is not possible":                                                 process(func(p *ocipb.Process) { p.User.UID = noID }),
		"process.user.additionalGids 4294967295 is not possible":                                    process(func(p *ocipb.Process) { p.User.AdditionalGids = []uint32{noID} }),
		"process.user.umask 01777 has more than permission bits":                                    process(func(p *ocipb.Process) { p.User.Umask = &umask }),
		`process.env "=x" is not a variable with its value`:                                         process(func(p *ocipb.Process) { p.Env = []string{"=x"} }),
		`process.scheduler: policy "" is unknown`:                                                   process(func(p *ocipb.Process) { p.Scheduler = &ocipb.LinuxScheduler{} }),
		"process.scheduler: nice 20 is not between -20 and 19":                                      process(func(p *ocipb.Process) { p.Scheduler = &ocipb.LinuxScheduler{Policy: "SCHED_OTHER", Nice: 20} }),
		"process.scheduler: priority 100 is not possible with SCHED_FIFO":                           process(func(p *ocipb.Process) { p.Scheduler = &ocipb.LinuxScheduler{Policy: "SCHED_FIFO", Priority: 100} }),
		`process.ioPriority: class "x" is unknown`:                                                  process(func(p *ocipb.Process) { p.IOPriority = &ocipb.LinuxIOPriority{Class: "x"} }),
		"process.ioPriority: priority 8 is not between 0 and 7":                                     process(func(p *ocipb.Process) { p.IOPriority = &ocipb.LinuxIOPriority{Class: "IOPRIO_CLASS_BE", Priority: 8} }),
		`process.execCPUAffinity: "1-" is not a list of numbers and ranges`:                         process(func(p *ocipb.Process) { p.ExecCPUAffinity = &ocipb.CPUAffinity{Initial: "1-"} }),
		`linux.timeOffsets "realtime" is neither monotonic nor boottime`:                            func(s *ocipb.Spec) { s.Linux.TimeOffsets = map[string]*ocipb.LinuxTimeOffset{"realtime": nil} },
		"linux.timeOffsets need a time namespace of the container's own":                            func(s *ocipb.Spec) { s.Linux.TimeOffsets = map[string]*ocipb.LinuxTimeOffset{"monotonic": {Secs: 1}} },
		`linux.personality: domain "LINUX64" is unknown`:                                            func(s *ocipb.Spec) { s.Linux.Personality = &ocipb.LinuxPersonality{Domain: "LINUX64"} },
		`linux.memoryPolicy: mode "MPOL_X" is unknown`:                                              func(s *ocipb.Spec) { s.Linux.MemoryPolicy = &ocipb.LinuxMemoryPolicy{Mode: "MPOL_X"} },
		`linux.memoryPolicy: nodes "a" is not a list of numbers and ranges`:                         func(s *ocipb.Spec) { s.Linux.MemoryPolicy = &ocipb.LinuxMemoryPolicy{Mode: "MPOL_BIND", Nodes: "a"} },
		`linux.intelRdt (closID "gold") is not possible: the guest has no resctrl`:                  func(s *ocipb.Spec) { s.Linux.IntelRdt = &ocipb.LinuxIntelRdt{ClosID: "gold"} },
		`linux.netDevices "eth0" is not possible: the network of a container is its pod's`:          func(s *ocipb.Spec) { s.Linux.NetDevices = map[string]*ocipb.LinuxNetDevice{"eth0": nil} },
		`linux.sysctl "kernel.hostname" conflicts with hostname or domainname, which are given too`: func(s *ocipb.Spec) { s.Hostname, s.Linux.Sysctl = "x", map[string]string{"kernel.hostname": "y"} },
		`linux.sysctl "user.max_net_namespaces" needs a user namespace of the container's own`:      func(s *ocipb.Spec) { s.Linux.Sysctl = map[string]string{"user.max_net_namespaces": "1"} },
		`linux.maskedPaths or readonlyPaths: "proc" is not an absolute path`:                        func(s *ocipb.Spec) { s.Linux.MaskedPaths = []string{"proc"} },
		"linux.devices[0] /dev/x: device number -1:5000000 is not possible": func(s *ocipb.Spec) {
			s.Linux.Devices = []*ocipb.LinuxDevice{{Path: "/dev/x", Type: "b", Major: -1, Minor: 5000000}}
		},
		`mounts[2] /x: only a bind mount can have ID mappings, not one of type "tmpfs"`:     addMount(&ocipb.Mount{Destination: "/x", Type: "tmpfs", UIDMappings: all}),
		"mounts[2] /x: option idmap needs uidMappings and gidMappings, or a user namespace": addMount(&ocipb.Mount{Destination: "/x", Type: "bind", Options: []string{"idmap"}}),
		"mounts[2] /x: gidMappings has 0 ranges; there must be 1 to 340":                    addMount(&ocipb.Mount{Destination: "/x", Type: "bind", UIDMappings: all}),
		"linux.resources.memory.limit -2 is negative":                                       resources(&ocipb.LinuxResources{Memory: &ocipb.LinuxMemory{Limit: -2}}),
		"linux.resources.memory.swap 5 without a memory limit":                              resources(&ocipb.LinuxResources{Memory: &ocipb.LinuxMemory{Swap: 5}}),
		"linux.resources.cpu.idle 2 is neither 0 nor 1":                                     resources(&ocipb.LinuxResources{CPU: &ocipb.LinuxCPU{Idle: new(int64(2))}}),
		"linux.resources.devices[0]: device rule with the impossible number -2:0":           resources(&ocipb.LinuxResources{Devices: []*ocipb.LinuxDeviceCgroup{{Type: "c", Major: -2}}}),
		"linux.resources.blockIO.throttleReadBpsDevice[0]: device -1:0 is not possible":     resources(&ocipb.LinuxResources{BlockIO: &ocipb.LinuxBlockIO{ThrottleReadBpsDevice: []*ocipb.LinuxThrottleDevice{{Major: -1}}}}),
		`linux.resources.rdma: "a b" is not the name of a device`:                           resources(&ocipb.LinuxResources{Rdma: map[string]*ocipb.LinuxRdma{"a b": nil}}),
		`linux.resources.unified resource "memory.max/../x" is not a file of a controller`:  resources(&ocipb.LinuxResources{Unified: map[string]string{"memory.max/../x": ""}}),
	} {
		spec := defaultSpec()
		change(spec)
		_, err := Parse("id", spec, Options{})
		var refused *fault.Error
		if !errors.As(err, &refused) || !errors.Is(err, fault.Invalid) || err.Error() != want {
			t.Errorf("error %v, want %s", err, want)
		}
	}
}
