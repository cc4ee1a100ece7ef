package qemu

import (
	"fmt"
	"sync"

	"kata/host/vmm"
)

// Slots of the root bus, pcie.0: 00 is the host bridge and 1f the LPC bridge of
// a q35. Devices of the command line come first, in order; then the root ports,
// eight to a slot as its functions, because a slot is worth more than a function.
const (
	firstSlot    = 0x01
	lastSlot     = 0x1e
	slotPorts    = 8
	maxPorts     = 64
	defaultPorts = 2
)

// slots knows where each device is, and which root port is free. A root port has
// one place, 00.
type slots struct {
	mu      sync.Mutex
	next    int // on the root bus
	base    int // slot of the first port
	devices map[string]*device
	ports   []*device // nil where free
	serial  int       // of plugged devices, never used again
}

// device is one that the guest has or is about to have.
type device struct {
	id     string
	path   vmm.PCIPath
	port   int // -1: on the root bus, for ever
	serial int
	ready  bool   // plugged completely
	busy   bool   // being unplugged
	parts  []part // what is behind it
}

func newSlots() *slots { return &slots{next: firstSlot, devices: map[string]*device{}} }

// fix gives a device of the command line the next slot and returns its addr
// option.
func (s *slots) fix(id string) string {
	slot := s.next
	s.next++
	if id != "" {
		s.devices[id] = &device{id: id, path: vmm.PCIPath(fmt.Sprintf("%02x", slot)), port: -1, ready: true}
	}
	return fmt.Sprintf("addr=%02x", slot)
}

// addPorts reserves places for so many root ports and returns their options.
func (s *slots) addPorts(n int) []string {
	s.base, s.ports = s.next, make([]*device, n)
	s.next += (n + slotPorts - 1) / slotPorts
	var options []string
	for i := range n {
		option := fmt.Sprintf("pcie-root-port,id=%s,chassis=%d,addr=%02x.%x", portID(i), i+1, s.base+i/slotPorts, i%slotPorts)
		if i%slotPorts == 0 && n > i+1 {
			option += ",multifunction=on"
		}
		options = append(options, option)
	}
	return options
}

func portID(i int) string { return fmt.Sprintf("port%d", i) }

func (s *slots) path(port int) vmm.PCIPath {
	slot, function := s.base+port/slotPorts, port%slotPorts
	if function == 0 {
		return vmm.PCIPath(fmt.Sprintf("%02x/00", slot))
	}
	return vmm.PCIPath(fmt.Sprintf("%02x.%x/00", slot, function))
}

// fits reports a command line with more devices than the bus has slots.
func (s *slots) fits() error {
	if s.next > lastSlot+1 {
		return fmt.Errorf("%d devices at boot and %d root ports: %w", len(s.devices), len(s.ports), vmm.ErrNoSlot)
	}
	return nil
}

// take reserves a root port for a new device.
func (s *slots) take(id string) (*device, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.devices[id] != nil {
		return nil, vmm.ErrPlugged
	}
	for port, holder := range s.ports {
		if holder != nil {
			continue
		}
		s.serial++
		d := &device{id: id, path: s.path(port), port: port, serial: s.serial}
		s.devices[id], s.ports[port] = d, d
		return d, nil
	}
	return nil, fmt.Errorf("%w: all %d root ports are in use", vmm.ErrNoSlot, len(s.ports))
}

// done marks a device as plugged.
func (s *slots) done(d *device, parts []part) {
	s.mu.Lock()
	defer s.mu.Unlock()
	d.ready, d.parts = true, parts
}

// claim finds a device to be unplugged, by one caller at a time.
func (s *slots) claim(id string) (*device, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	d := s.devices[id]
	switch {
	case d == nil || !d.ready:
		return nil, vmm.ErrNotPlugged
	case d.port < 0:
		return nil, fmt.Errorf("the machine was started with it")
	case d.busy:
		return nil, fmt.Errorf("it is being unplugged")
	}
	d.busy = true
	return d, nil
}

// unclaim leaves a device for another try.
func (s *slots) unclaim(d *device) {
	s.mu.Lock()
	defer s.mu.Unlock()
	d.busy = false
}

// free gives a port back.
func (s *slots) free(d *device) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.devices, d.id)
	s.ports[d.port] = nil
}

// locate finds a device that is plugged.
func (s *slots) locate(id string) (*device, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	d := s.devices[id]
	return d, d != nil && d.ready
}
