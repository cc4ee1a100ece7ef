// Package hotplug boots virtual machines with the real agent and a bus to plug
// devices into, for tests of devices that come and go. They are plugged by QMP,
// and the agent is driven by calls over vsock.
//
// The machine has PCIe root ports and PCI bridges in known places (see Boot), a
// SCSI host, and in the guest a root file system with busybox. It ends with the
// test.
package hotplug
