// Package hotplug boots virtual machines with the real agent and a bus to plug
// devices into, for tests of devices that come and go. It is a pod's machine: its
// driver plugs disks, network devices, vCPUs and shares. What is no power of the
// driver is plugged by QMP, and the agent is driven by calls over vsock.
//
// The machine has PCI bridges in known places besides (see Boot), a SCSI host, and
// in the guest a root file system with busybox. It ends with the test.
package hotplug
