// Package assign gives devices of the machine to a container: it waits for those
// that a request names (message Device of the agent API) and makes the
// container's plan say what they are in the guest, since the host could only write
// what they are on the host.
//
// A device belongs to the entry of linux.devices whose path is its
// container_path. The entry gets the guest's numbers, and so do the rules of the
// device cgroup, the io limits and the variables PCIDEVICE_… that mean it.
//
// [Assign] changes the plan it is given, and little of the machine: only
// devices for VFIO change their driver, which [Set.Release] undoes.
package assign

import (
	"context"
	"errors"
	"path"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"kata/api/agentpb"
	"kata/guest/container/ocispec"
	"kata/guest/fault"
	"kata/guest/machine/device"
	"kata/lib/fmt"
)

// InvalidError is a device that makes no sense.
type InvalidError = fault.Error

func invalid(field, value, reason string) error {
	return fault.Field(field, strconv.Quote(value), reason)
}

// nth says which device an error is about.
func nth(i int, between string, err error) error {
	return fmt.Errorf("devices[%d]%s%w", i, between, err)
}

// Types of devices, upstream's names.
const (
	typeBlock   = "blk"
	typeMMIO    = "mmioblk"
	typeNVDIMM  = "nvdimm"
	typeSCSI    = "scsi"
	typeVFIO    = "vfio-pci"
	typeVFIOOwn = "vfio-pci-gk" // stays with the guest kernel's driver
)

// Types returns the types of devices that there are, sorted.
func Types() []string {
	return []string{typeBlock, typeMMIO, typeNVDIMM, typeSCSI, typeVFIO, typeVFIOOwn}
}

// Set is what was assigned to a container.
type Set struct {
	vfio []*device.VFIO
}

// Release gives devices back to the drivers they had. A further call does
// nothing, nor does one of a nil Set.
func (s *Set) Release() error {
	if s == nil {
		return nil
	}
	var errs []error
	for _, v := range slices.Backward(s.vfio) {
		errs = append(errs, v.Release())
	}
	s.vfio = nil
	return errors.Join(errs...)
}

// found is a device as the guest has it.
type found struct {
	number        // without a kind if it has no node
	path   string // for the container, if it differs from what was asked for
}

// Assign waits for devices and writes them into spec. If one fails nothing is
// left of those before it, but spec is not to be used any more.
func Assign(ctx context.Context, finder *device.Finder, devices []*agentpb.Device, spec *ocispec.Container) (*Set, error) {
	for i, d := range devices { // before anything is waited for
		if err := check(d); err != nil {
			return nil, nth(i, ".", err)
		}
		if index(&spec.Plan, d.ContainerPath) < 0 && d.Type != typeVFIOOwn {
			return nil, nth(i, ".", invalid("container_path", d.ContainerPath, "is the path of no entry in OCI.Linux.Devices"))
		}
	}
	a := assignment{finder: finder, set: new(Set), found: make(map[string]found), addresses: make(map[string]string)}
	for i, d := range devices {
		if err := a.add(ctx, d); err != nil {
			return nil, errors.Join(nth(i, ": ", err), a.set.Release())
		}
	}
	if err := a.rewrite(spec); err != nil {
		return nil, errors.Join(err, a.set.Release())
	}
	return a.set, nil
}

// check finds out whether a device makes sense at all.
func check(d *agentpb.Device) error {
	switch {
	case d == nil:
		return invalid("type", "", "is missing")
	case !slices.Contains(Types(), d.Type):
		return invalid("type", d.Type, "is not one of "+strings.Join(Types(), ", "))
	case d.ContainerPath == "":
		return invalid("container_path", "", "is missing")
	case d.Type == typeVFIO || d.Type == typeVFIOOwn:
		return checkVFIO(d)
	case d.Type == typeBlock && d.Id != "":
		if _, err := device.ParsePCIPath(d.Id); err != nil {
			return invalid("id", d.Id, "is not a PCI path, as 02/01")
		}
	case d.Type == typeSCSI:
		if _, err := device.ParseSCSIAddress(d.Id); err != nil {
			return invalid("id", d.Id, "is not a SCSI address, TARGET:LUN")
		}
	case !device.IsNode(d.VmPath):
		return invalid("vm_path", d.VmPath, "is not the path of a device below /dev")
	}
	if len(d.Options) != 0 {
		return invalid("options", d.Options[0], "is unknown to type "+d.Type)
	}
	return nil
}

func checkVFIO(d *agentpb.Device) error {
	if len(d.Options) == 0 {
		return invalid("options", "", "are missing: HOST-ADDRESS=PCI-PATH of each device of the group")
	}
	for _, option := range d.Options {
		if _, _, err := parseVFIO(option); err != nil {
			return err
		}
	}
	return nil
}

// parseVFIO parses HOST-ADDRESS=PCI-PATH.
func parseVFIO(option string) (host string, place device.PCIPath, err error) {
	address, text, _ := strings.Cut(option, "=")
	if host, err = device.ParsePCIAddress(address); err == nil {
		place, err = device.ParsePCIPath(text)
	}
	if err != nil {
		err = invalid("options", option, "is not HOST-ADDRESS=PCI-PATH, as 0000:3b:00.0=02/00")
	}
	return host, place, err
}

// assignment is the devices of one container.
type assignment struct {
	finder    *device.Finder
	set       *Set
	found     map[string]found  // by the container_path, clean
	addresses map[string]string // of PCI devices: the host's to the guest's
}

// add waits for one device.
func (a *assignment) add(ctx context.Context, d *agentpb.Device) error {
	containerPath := path.Clean(d.ContainerPath)
	if _, twice := a.found[containerPath]; twice {
		return invalid("container_path", d.ContainerPath, "is another device's too")
	}
	var f found
	var err error
	switch d.Type {
	case typeVFIO, typeVFIOOwn:
		f, err = a.addVFIO(ctx, d)
	default:
		var block device.Block
		block, err = a.block(ctx, d)
		f.number = number{unix.S_IFBLK, block.Major, block.Minor}
	}
	if err != nil {
		return err
	}
	a.found[containerPath] = f
	return nil
}

func (a *assignment) block(ctx context.Context, d *agentpb.Device) (device.Block, error) {
	switch {
	case d.Type == typeSCSI:
		address, err := device.ParseSCSIAddress(d.Id)
		if err != nil {
			return device.Block{}, err
		}
		return a.finder.SCSI(ctx, address)
	case d.Type == typeBlock && d.Id != "":
		place, err := device.ParsePCIPath(d.Id)
		if err != nil {
			return device.Block{}, err
		}
		return a.finder.BlockAt(ctx, place)
	}
	return a.finder.BlockNamed(ctx, d.VmPath)
}

// addVFIO waits for the PCI devices of one IOMMU group.
func (a *assignment) addVFIO(ctx context.Context, d *agentpb.Device) (found, error) {
	var group string
	for _, option := range d.Options {
		host, place, err := parseVFIO(option)
		if err != nil {
			return found{}, err
		}
		address, err := a.finder.PCI(ctx, place)
		if err != nil {
			return found{}, err
		}
		if other, twice := a.addresses[host]; twice && other != address {
			return found{}, invalid("options", option, "gives the host's device a second place in the guest")
		}
		a.addresses[host] = address
		if d.Type == typeVFIOOwn {
			continue
		}
		v, err := a.finder.GiveToVFIO(address)
		if err != nil {
			return found{}, err
		}
		a.set.vfio = append(a.set.vfio, v)
		if group != "" && group != v.Group {
			return found{}, errors.New("PCI device " + address + " is in IOMMU group " + v.Group + ", and not in " + group + " as the one before")
		}
		group = v.Group
	}
	if d.Type == typeVFIOOwn {
		return found{}, nil
	}
	node, err := a.finder.VFIOGroup(ctx, group)
	return found{number{unix.S_IFCHR, node.Major, node.Minor}, node.Path}, err
}
