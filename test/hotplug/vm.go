package hotplug

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"kata/api"
	"kata/api/agentpb"
	"kata/api/ttrpc"
	"kata/host/guestvm"
	"kata/host/process"
	"kata/host/undo"
	"kata/host/vmm"
	"kata/host/vmm/qemu"
	"kata/host/vmm/qemu/qmp"
	"kata/image/initrd"
	"kata/test/harness"
	"kata/test/pace"
)

const (
	// limit bounds what has to happen soon, on a machine of any speed.
	limit = 2 * time.Minute

	// AgentEnv names another agent than bin/kata-agent.
	AgentEnv = "KATA_TEST_AGENT"
	// Rootfs is where the guest has a root file system with busybox, read-only.
	Rootfs = "/rootfs"
)

// Options say what to boot.
type Options struct {
	// Params are kernel parameters. A hotplug time-out of a minute is among
	// them already.
	Params []string
	// Args are further arguments of QEMU.
	Args   []string
	Shares []vmm.Share
	// MaxVCPUs is 1 when zero, MemoryMiB 512.
	MaxVCPUs, MemoryMiB int
	// Machine is appended to the options of -machine.
	Machine string
}

// VM is a machine with a running agent.
type VM struct {
	testing.TB
	Dir   string // for disks
	Agent *agentpb.AgentServiceClient
	// Machine is the pod's driver: what it can plug, it plugs.
	Machine *qemu.Machine
	// QMP is for what is no power of the driver.
	QMP *qmp.Client

	disks  map[string]string // files of AddDisk
	plain  map[string]string // devices of Plug, and their disks
	vcpus  int
	probes int
}

// buses are the places that no pod has, by the names that device_add takes, with
// their PCI paths:
//
//	legacy                07             a PCI bridge on the root bus
//	switch                08/00/00       a downstream port of a PCIe switch
//	deep                  09/00/01       a PCI bridge behind a PCIe-to-PCI one
//	scsi                  0a             the SCSI host
var buses = []string{
	"-device", "pci-bridge,id=legacy,chassis_nr=94,addr=07",
	"-device", "pcie-root-port,id=upper,chassis=95,addr=08",
	"-device", "x3130-upstream,id=up,bus=upper",
	"-device", "xio3130-downstream,id=switch,bus=up,chassis=96,slot=1",
	"-device", "pcie-root-port,id=lower,chassis=97,addr=09",
	"-device", "pcie-pci-bridge,id=topci,bus=lower",
	"-device", "pci-bridge,id=deep,bus=topci,chassis_nr=98,addr=01",
	"-device", "virtio-scsi-pci,id=scsi,addr=0a",
}

// Boot boots a machine and returns when its agent listens.
func Boot(tb testing.TB, o Options) *VM {
	tb.Helper()
	dir, err := os.MkdirTemp("", "hotplug") // short: sockets lie below it
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = os.RemoveAll(dir) })
	v := &VM{TB: tb, Dir: dir, disks: map[string]string{}, plain: map[string]string{}, vcpus: 1}
	guest := v.start(o)
	ctx, cancel := context.WithTimeout(v.Context(), pace.Of(limit))
	defer cancel()
	conn, err := guest.Dial(ctx, api.PortAgent)
	v.Must(err)
	client := ttrpc.NewClient(conn)
	v.Cleanup(func() { _ = client.Close() })
	v.Agent = agentpb.NewAgentServiceClient(client)
	return v
}

// start starts the machine as a pod's is, with the buses besides. The firmware is
// QEMU's own: qboot knows no conventional PCI bridges.
func (v *VM) start(o Options) *guestvm.VM {
	v.Helper()
	repo, err := harness.Repository()
	v.Must(err)
	agent := os.Getenv(AgentEnv)
	if agent == "" {
		agent = filepath.Join(repo.Bin(), "kata-agent")
	}
	image := filepath.Join(v.Dir, "initrd.img")
	v.Must(writeInitrd(image, agent))
	log, spawner := slog.New(slog.DiscardHandler), process.NewSpawner()
	stack := undo.New(new(undo.Memory))
	v.Cleanup(func() {
		defer spawner.Close()
		ctx, cancel := context.WithTimeout(context.Background(), pace.Of(limit))
		defer cancel()
		if v.Failed() && v.Machine != nil {
			v.Logf("the console ended with:\n%s", v.Machine.ConsoleTail())
		}
		v.Must(stack.Run(ctx))
	})
	ctx, cancel := context.WithTimeoutCause(v.Context(), pace.Of(limit), errors.New("the agent was not up in time"))
	defer cancel()
	guest, err := guestvm.Boot(ctx, guestvm.Config{
		Machine: vmm.Spec{
			ID: "hotplug", Dir: v.Dir, VCPUs: 1, MaxVCPUs: o.MaxVCPUs, MemoryMiB: cmp.Or(o.MemoryMiB, 512),
			Kernel: repo.Kernel(), Initrd: image, KernelParams: append([]string{"agent.hotplug_timeout=60"}, o.Params...),
			Shares: o.Shares, HotplugDevices: 3,
		},
		Accel: vmm.AccelTCG, StopTimeout: pace.Of(limit), Log: log,
	}, &guestvm.Host{
		QEMU:    qemu.Config{Firmware: []string{"/none"}, MachineAccelerators: o.Machine, ExtraArgs: append(slices.Clone(buses), o.Args...)},
		Spawner: spawner, Log: log,
	}, stack)
	v.Must(err)
	v.Machine = guest.Machine().(*qemu.Machine)
	v.QMP, err = v.Machine.Control()
	v.Must(err)
	return guest
}

// writeInitrd writes the guest's image with an agent and the root file system.
func writeInitrd(path, agent string) error {
	binary, err := os.ReadFile(agent)
	if err != nil {
		return err
	}
	image, err := harness.Busybox("")
	if err != nil {
		return err
	}
	root := strings.TrimPrefix(Rootfs, "/")
	entries := append(initrd.Guest(binary), initrd.Dir(root, 0o755))
	for _, f := range image.Files {
		name := root + "/" + strings.TrimSuffix(f.Name, "/")
		switch {
		case strings.HasSuffix(f.Name, "/"):
			entries = append(entries, initrd.Dir(name, uint32(f.Mode)))
		case f.Link != "":
			entries = append(entries, initrd.Link(name, f.Link))
		default:
			entries = append(entries, initrd.File(name, uint32(f.Mode), f.Data))
		}
	}
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	return errors.Join(initrd.Write(file, entries), file.Close())
}

// Must fails the test at once for an error.
func (v *VM) Must(err error) {
	v.Helper()
	if err != nil {
		v.Fatal(err)
	}
}

// Do executes a command of QEMU's.
func (v *VM) Do(command string, args map[string]any) json.RawMessage {
	v.Helper()
	ctx, cancel := context.WithTimeout(v.Context(), pace.Of(limit))
	defer cancel()
	var result json.RawMessage
	if err := v.QMP.Execute(ctx, command, args, &result); err != nil {
		v.Fatalf("%s %v: %v", command, args, err)
	}
	return result
}

// AddDisk gives a file a name, for PlugDisk and Plug.
func (v *VM) AddDisk(id, file string) { v.disks[id] = file }

// PlugDisk plugs a disk in as a pod's are, and wants it at a place.
func (v *VM) PlugDisk(id, place string) {
	v.Helper()
	file, err := os.OpenFile(v.disks[id], os.O_RDWR, 0)
	v.Must(err)
	defer file.Close()
	path, err := v.Machine.PlugBlock(v.Call(), vmm.Block{ID: id, File: file})
	v.Must(err)
	if path != vmm.PCIPath(place) {
		v.Fatalf("disk %s is at %s, want %s", id, path, place)
	}
}

// Plug adds a device that is no power of the driver, on one of the buses. Its
// properties are pairs of a name and a value; a drive is one of AddDisk's.
func (v *VM) Plug(driver, id, bus string, properties map[string]any) {
	v.Helper()
	args := map[string]any{"driver": driver, "id": id, "bus": bus}
	for key, value := range properties {
		args[key] = value
	}
	drive, _ := properties["drive"].(string)
	if drive != "" {
		v.Do("blockdev-add", map[string]any{
			"driver": "raw", "node-name": drive, "file": map[string]any{"driver": "file", "filename": v.disks[drive]},
		})
	}
	v.Do("device_add", args)
	v.plain[id] = drive
}

// Unplug removes a device and returns when the guest has let it go.
func (v *VM) Unplug(id string) {
	v.Helper()
	drive, plain := v.plain[id]
	if !plain {
		v.Must(v.Machine.Unplug(v.Call(), id))
		return
	}
	v.unplug(id)
	delete(v.plain, id)
	if drive != "" {
		v.Do("blockdev-del", map[string]any{"node-name": drive}) // fails while the device is in use
	}
}

func (v *VM) unplug(id string) {
	v.Helper()
	events := v.QMP.Subscribe(64)
	defer events.Close()
	v.Do("device_del", map[string]any{"id": id})
	deadline := time.After(pace.Of(limit))
	for {
		select {
		case e, ok := <-events.Events():
			if !ok {
				v.Fatalf("unplug %s: QEMU has ended", id)
			}
			var data struct{ Device string }
			_ = json.Unmarshal(e.Data, &data)
			switch {
			case e.Name == "DEVICE_DELETED" && data.Device == id:
				return
			case e.Name == "DEVICE_UNPLUG_GUEST_ERROR":
				v.Fatalf("unplug %s: the guest refuses: %s", id, e.Data)
			}
		case <-deadline:
			v.Fatalf("unplug %s: the guest has not let it go within %s", id, limit)
		}
	}
}
