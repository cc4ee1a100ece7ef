//go:build vm

package hotplug

import (
	"fmt"
	"net"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"kata/api/agentpb"
	"kata/api/ttrpc"
	"kata/api/typespb"
	"kata/host/vmm"
)

// addPort gives QEMU a network for a device.
func (v *VM) addPort(id string) {
	v.Helper()
	v.Do("netdev_add", map[string]any{"type": "hubport", "id": id, "hubid": 0})
}

// plugTap plugs a network device in as a pod's are, on a tap of its own.
func (v *VM) plugTap(id, mac string) {
	v.Helper()
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	v.Must(err)
	tap := os.NewFile(uintptr(fd), "tap")
	defer tap.Close()
	request, err := unix.NewIfreq(fmt.Sprintf("hot%d%s", os.Getpid()%100000, id))
	v.Must(err)
	request.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
	v.Must(unix.IoctlIfreq(fd, unix.TUNSETIFF, request))
	address, err := net.ParseMAC(mac)
	v.Must(err)
	_, err = v.Machine.PlugNetwork(v.Call(), vmm.Network{ID: id, Taps: []*os.File{tap}, MAC: address})
	v.Must(err)
}

// TestNetworkDevices plugs network devices in while the agent waits for them, by
// PCI path, by path in sysfs and by MAC address.
func TestNetworkDevices(t *testing.T) {
	v := Boot(t, Options{}).Sandbox()
	const port1 = "/sys/devices/pci0000:00/0000:00:03.1/"
	address := strings.TrimSpace(v.Shell("ls "+port1+"pci_bus")) + ":00.0"
	for _, tt := range []struct {
		name, bus, mac string
		addr           string
		i              *typespb.Interface
	}{
		{"a PCI path", "", "02:00:00:00:00:01", "", &typespb.Interface{DevicePath: place0, HwAddr: "02:00:00:00:00:01"}},
		{"a PCI path through a bridge", "legacy", "02:00:00:00:00:02", "5", &typespb.Interface{DevicePath: "07/05"}},
		{"a long PCI path", "deep", "02:00:00:00:00:03", "2", &typespb.Interface{DevicePath: "09/00/01/02"}},
		{"a path in sysfs", "", "02:00:00:00:00:04", "", &typespb.Interface{DevicePath: port1 + address}},
		{"a MAC address", "switch", "02:00:00:00:00:05", "", &typespb.Interface{HwAddr: "02:00:00:00:00:05"}},
	} {
		id := "nic" + tt.mac[len(tt.mac)-1:]
		tt.i.Name, tt.i.Device, tt.i.Mtu = "net"+id, "eth0", 1400
		tt.i.IPAddresses = []*typespb.IPAddress{
			{Address: "10.0." + tt.mac[len(tt.mac)-1:] + ".5", Mask: "24"},
			{Family: typespb.IPFamily_v6, Address: "fd0" + tt.mac[len(tt.mac)-1:] + "::5", Mask: "64"},
		}
		type answer struct {
			got *typespb.Interface
			err error
		}
		answers := make(chan answer, 1)
		go func() {
			got, err := v.Agent.UpdateInterface(v.Call(), &agentpb.UpdateInterfaceRequest{Interface: tt.i})
			answers <- answer{got, err}
		}()
		if tt.bus == "" {
			v.plugTap(id, tt.mac)
		} else {
			v.addPort(id)
			options := map[string]any{"netdev": id, "mac": tt.mac}
			if tt.addr != "" {
				options["addr"] = tt.addr
			}
			v.Plug("virtio-net-pci", id, tt.bus, options)
		}
		a := <-answers
		if a.err != nil {
			t.Fatalf("%s: %v", tt.name, a.err)
		}
		if a.got.Name != tt.i.Name || a.got.HwAddr != tt.mac || a.got.Mtu != 1400 || len(a.got.IPAddresses) < 2 {
			t.Errorf("%s: it is %+v", tt.name, a.got)
		}
		text := v.Shell("ip addr show dev " + tt.i.Name)
		for _, part := range []string{tt.mac, ",UP", "mtu 1400", "inet " + tt.i.IPAddresses[0].Address + "/24", "inet6 " + tt.i.IPAddresses[1].Address + "/64"} {
			if !strings.Contains(text, part) {
				t.Errorf("%s: ip addr does not say %q:\n%s", tt.name, part, text)
			}
		}
		if strings.Contains(text, tt.i.IPAddresses[1].Address+"/64 scope global tentative") {
			t.Errorf("%s: its address cannot be used yet:\n%s", tt.name, text)
		}
	}
	routes, err := v.Agent.UpdateRoutes(v.Call(), &agentpb.UpdateRoutesRequest{Routes: &agentpb.Routes{Routes: []*typespb.Route{
		{Gateway: "10.0.1.1", Device: "netnic1"},
		{Gateway: "fd02::1", Device: "netnic2", Source: "fd02::5"},
		{Dest: "10.9.0.0/16", Gateway: "10.0.3.1", Device: "netnic3"},
	}}})
	if err != nil || len(routes.Routes) < 3 {
		t.Errorf("routes are %v, %v", routes, err)
	}
	// The path of one with the address of another is no device.
	_, err = v.Agent.UpdateInterface(v.Call(), &agentpb.UpdateInterfaceRequest{Interface: &typespb.Interface{Name: "eth0", HwAddr: "02:00:00:00:00:02", DevicePath: place0}})
	if ttrpc.CodeOf(err) != ttrpc.InvalidArgument || !strings.Contains(err.Error(), "interface.hwAddr") {
		t.Errorf("error is %v", err)
	}
	v.Unplug("nic3")
	interfaces, err := v.Agent.ListInterfaces(v.Call(), &agentpb.ListInterfacesRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range interfaces.Interfaces {
		if i.Name == "netnic3" {
			t.Error("an interface is listed that is gone")
		}
	}
	v.Shell("echo | busybox nc -u -w 1 10.0.1.9 9; true") // for whose address the guest asks
	v.networkStats("netnic1")
}

// networkStats finds out whether the statistics of a container have the counters
// of a device.
func (v *VM) networkStats(name string) {
	v.Helper()
	if _, err := v.Agent.CreateContainer(v.Call(), &agentpb.CreateContainerRequest{ContainerId: "box", OCI: Spec("sleep 1000")}); err != nil {
		v.Fatal(err)
	}
	stats, err := v.Agent.StatsContainer(v.Call(), &agentpb.StatsContainerRequest{ContainerId: "box"})
	v.Must(err)
	found := false
	for _, s := range stats.NetworkStats {
		if s.Name == "lo" {
			v.Error("the loopback device has statistics")
		}
		found = found || s.Name == name && s.TxPackets > 0
	}
	if !found {
		v.Errorf("%s has no statistics, or has sent nothing: %+v", name, stats.NetworkStats)
	}
	v.Remove("box")
}
