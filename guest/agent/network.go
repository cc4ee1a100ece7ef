package agent

import (
	"context"
	"errors"
	"strconv"

	"golang.org/x/sys/unix"

	"kata/api/agentpb"
	"kata/api/typespb"
	"kata/guest/fault"
	"kata/guest/machine/device"
	"kata/guest/machine/uevent"
	"kata/guest/network/netdev"
	"kata/lib/fmt"
)

// registerNetwork registers the calls that set the pod's network up.
func (s *Service) registerNetwork(agent agentpb.AgentServiceRegistrar) {
	agent.UpdateInterface(s.updateInterface)
	agent.UpdateRoutes(s.updateRoutes)
	agent.ListInterfaces(s.listInterfaces)
	agent.ListRoutes(s.listRoutes)
	agent.AddARPNeighbors(s.addARPNeighbors)
}

func (s *Service) updateInterface(ctx context.Context, req *agentpb.UpdateInterfaceRequest) (*typespb.Interface, error) {
	if req.Interface == nil {
		return nil, invalid("interface", "", "is missing")
	}
	which, want, err := parseInterface(req.Interface)
	if err != nil {
		return nil, err
	}
	if err := s.needInit("set up a network interface"); err != nil {
		return nil, err
	}
	if which.Index, err = s.awaitInterface(ctx, req.Interface.DevicePath, which.MAC); err != nil {
		return nil, err
	}
	got, err := s.network.SetInterface(ctx, which, want)
	if err != nil {
		return nil, fault.In("interface", err)
	}
	return interfaceMessage(got), nil
}

// awaitInterface waits for the interface to be there, and returns its number if
// it is known by its path: the PCI path, or the path in sysfs.
func (s *Service) awaitInterface(ctx context.Context, path string, mac netdev.MAC) (index int, err error) {
	const field = "interface.devicePath"
	switch {
	case path == "" && mac == "":
		return 0, nil // SetInterface says what is missing
	case path == "":
		timeout := s.cfg.Devices.Timeout()
		err := uevent.Await(ctx, "hwAddr "+mac.String(), timeout, func() (bool, error) { return s.network.Exists(mac) })
		if late := (*uevent.TimeoutError)(nil); errors.As(err, &late) {
			return 0, fault.New(fault.NotFound, fmt.Sprintf("interface.hwAddr %q is not the address of a network interface, nor of one that came within %v", mac.String(), timeout))
		}
		return 0, err
	case path[0] == '/':
		dir, err := device.SysPath(path)
		if err != nil {
			return 0, invalid(field, path, "is not the path of a device in sysfs")
		}
		if index, err = s.cfg.Devices.NetIn(ctx, dir); err != nil {
			return 0, fmt.Errorf("%s %q: %w", field, path, err)
		}
	default:
		pci, err := device.ParsePCIPath(path)
		if err != nil {
			return 0, invalid(field, path, "is not a PCI path, slots such as 02/01.3, nor a path below /sys")
		}
		if index, err = s.cfg.Devices.NetAt(ctx, pci); err != nil {
			return 0, fmt.Errorf("%s %q: %w", field, path, err)
		}
	}
	return index, nil
}

func (s *Service) listInterfaces(context.Context, *agentpb.ListInterfacesRequest) (*agentpb.Interfaces, error) {
	list, err := s.network.Interfaces()
	if err != nil {
		return nil, err
	}
	resp := &agentpb.Interfaces{Interfaces: make([]*typespb.Interface, len(list))}
	for i := range list {
		resp.Interfaces[i] = interfaceMessage(list[i])
	}
	return resp, nil
}

func interfaceMessage(i *netdev.Interface) *typespb.Interface {
	m := &typespb.Interface{Device: i.Name, Name: i.Name, HwAddr: i.MAC.String(), Mtu: uint64(i.MTU), Type: i.Kind}
	if i.NoARP {
		m.RawFlags = unix.IFF_NOARP
	}
	for _, p := range i.Addresses {
		m.IPAddresses = append(m.IPAddresses, &typespb.IPAddress{
			Family: addressFamily(p.Addr), Address: p.Addr.String(), Mask: strconv.Itoa(int(p.Bits)),
		})
	}
	return m
}

func addressFamily(a netdev.Addr) typespb.IPFamily {
	if a.Is6() {
		return typespb.IPFamily_v6
	}
	return typespb.IPFamily_v4
}

// updateRoutes answers with the routes as they are then.
func (s *Service) updateRoutes(ctx context.Context, req *agentpb.UpdateRoutesRequest) (*agentpb.Routes, error) {
	if req.Routes == nil {
		return nil, invalid("routes", "", "is missing: no routes are an empty list")
	}
	list, err := parseRoutes(req.Routes.Routes)
	if err != nil {
		return nil, err
	}
	if err := s.needInit("set routes"); err != nil {
		return nil, err
	}
	if err := s.network.SetRoutes(ctx, list); err != nil {
		return nil, fault.In("routes.Routes", err)
	}
	return s.listRoutes(ctx, nil)
}

func (s *Service) listRoutes(context.Context, *agentpb.ListRoutesRequest) (*agentpb.Routes, error) {
	list, err := s.network.Routes()
	if err != nil {
		return nil, err
	}
	resp := &agentpb.Routes{Routes: make([]*typespb.Route, len(list))}
	for i, r := range list {
		m := &typespb.Route{
			Dest: r.Dst.String(), Gateway: r.Gateway.String(), Device: r.Device, Source: r.Source.String(),
			Scope: uint32(r.Scope), Family: addressFamily(r.Dst.Addr), Mtu: r.MTU,
		}
		if r.Onlink {
			m.Flags = unix.RTNH_F_ONLINK
		}
		if r.Metric != 0 {
			m.Metric = &r.Metric
		}
		resp.Routes[i] = m
	}
	return resp, nil
}

func (s *Service) addARPNeighbors(ctx context.Context, req *agentpb.AddARPNeighborsRequest) (*agentpb.Empty, error) {
	if req.Neighbors == nil {
		return nil, invalid("neighbors", "", "is missing")
	}
	list, err := parseNeighbours(req.Neighbors.ARPNeighbors)
	if err != nil {
		return nil, err
	}
	if err := s.needInit("set neighbours"); err != nil {
		return nil, err
	}
	if err := s.network.AddNeighbours(ctx, list); err != nil {
		return nil, fault.In("neighbors.ARPNeighbors", err)
	}
	return &agentpb.Empty{}, nil
}

// networkStats returns the counters of the pod's interfaces.
func (s *Service) networkStats() ([]*agentpb.NetworkStats, error) {
	list, err := s.network.Statistics()
	if err != nil {
		return nil, err
	}
	stats := make([]*agentpb.NetworkStats, len(list))
	for i, c := range list {
		stats[i] = &agentpb.NetworkStats{
			Name:    c.Name,
			RxBytes: c.RxBytes, RxPackets: c.RxPackets, RxErrors: c.RxErrors, RxDropped: c.RxDropped,
			TxBytes: c.TxBytes, TxPackets: c.TxPackets, TxErrors: c.TxErrors, TxDropped: c.TxDropped,
		}
	}
	return stats, nil
}

func element(field string, i int) string { return field + "[" + strconv.Itoa(i) + "]" }
