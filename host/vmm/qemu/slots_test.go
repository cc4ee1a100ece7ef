package qemu

import (
	"errors"
	"fmt"
	"testing"

	"kata/host/vmm"
)

func TestSlots(t *testing.T) {
	s := newSlots()
	if got := s.fix(""); got != "addr=01" {
		t.Errorf("the first device is at %s", got)
	}
	if got := s.fix("image"); got != "addr=02" {
		t.Errorf("the second device is at %s", got)
	}
	s.addPorts(9)
	want := []vmm.PCIPath{"03/00", "03.1/00", "03.2/00", "03.3/00", "03.4/00", "03.5/00", "03.6/00", "03.7/00", "04/00"}
	var devices []*device
	for i, path := range want {
		d, err := s.take(fmt.Sprint("disk", i))
		if err != nil || d.path != path {
			t.Fatalf("device %d is at %+v, %v, want %s", i, d, err, path)
		}
		devices = append(devices, d)
	}
	if _, err := s.take("more"); !errors.Is(err, vmm.ErrNoSlot) {
		t.Errorf("a tenth device in nine places: %v", err)
	}
	if _, ok := s.locate("disk3"); ok {
		t.Error("a device is located before it is there")
	}
	if _, err := s.claim("disk3"); !errors.Is(err, vmm.ErrNotPlugged) {
		t.Errorf("unplug of a device before it is there: %v", err)
	}
	s.done(devices[3], nil)
	if _, err := s.take("disk3"); !errors.Is(err, vmm.ErrPlugged) {
		t.Errorf("a second device of one id: %v", err)
	}
	if _, err := s.claim("image"); err == nil {
		t.Error("a device of the command line can be unplugged")
	}
	if _, err := s.claim("disk3"); err != nil {
		t.Error(err)
	}
	if _, err := s.claim("disk3"); err == nil {
		t.Error("a device is unplugged twice at a time")
	}
	s.unclaim(devices[3])
	if _, err := s.claim("disk3"); err != nil {
		t.Error(err)
	}
	s.free(devices[3])
	d, err := s.take("again")
	if err != nil || d.path != want[3] || d.serial == devices[3].serial {
		t.Errorf("the place that became free: %+v, %v", d, err)
	}
}

func TestMoreDevicesThanSlots(t *testing.T) {
	s := newSlots()
	for i := range lastSlot - 1 {
		s.fix(fmt.Sprint("fs", i))
	}
	s.addPorts(8)
	if err := s.fits(); err != nil {
		t.Errorf("30 slots are not enough for 30: %v", err)
	}
	s.fix("one more")
	if err := s.fits(); !errors.Is(err, vmm.ErrNoSlot) {
		t.Errorf("31 slots on a bus of 30: %v", err)
	}
}
