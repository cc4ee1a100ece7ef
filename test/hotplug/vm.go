package hotplug

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"kata/api"
	"kata/api/agentpb"
	"kata/api/ttrpc"
	"kata/host/guestvm"
	"kata/host/undo"
	"kata/host/vmm"
	"kata/host/vmm/qemu/qmp"
	"kata/image/initrd"
	"kata/test/harness"
	"kata/test/pace"
	"kata/test/rawvm"
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
	Args []string
	SMP  string // "1" when empty
	// Machine is appended to the options of -machine.
	Machine string
	// Memory is the option of -m; "512M" when empty.
	Memory string
}

// VM is a machine with a running agent.
type VM struct {
	testing.TB
	Dir   string // for disks
	Agent *agentpb.AgentServiceClient
	QMP   *qmp.Client

	guest  *guestvm.VM
	probes int
}

// buses are the places for devices, by the names that device_add takes, with
// their PCI paths:
//
//	port0, port1, port2   04, 05, 06     root ports
//	legacy                07             a PCI bridge on the root bus
//	switch                08/00/00       a downstream port of a PCIe switch
//	deep                  09/00/01       a PCI bridge behind a PCIe-to-PCI one
//	scsi                  0a             the SCSI host
var buses = []string{
	"-device", "pcie-root-port,id=port0,chassis=1,addr=04",
	"-device", "pcie-root-port,id=port1,chassis=2,addr=05",
	"-device", "pcie-root-port,id=port2,chassis=3,addr=06",
	"-device", "pci-bridge,id=legacy,chassis_nr=4,addr=07",
	"-device", "pcie-root-port,id=port4,chassis=5,addr=08",
	"-device", "x3130-upstream,id=up,bus=port4",
	"-device", "xio3130-downstream,id=switch,bus=up,chassis=6,slot=1",
	"-device", "pcie-root-port,id=port5,chassis=7,addr=09",
	"-device", "pcie-pci-bridge,id=topci,bus=port5",
	"-device", "pci-bridge,id=deep,bus=topci,chassis_nr=8,addr=01",
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
	v := &VM{TB: tb, Dir: dir}
	log := slog.New(slog.DiscardHandler)
	parts := &rawvm.Parts{Host: &guestvm.Host{Log: log}, Args: v.arguments(o)}
	stack := undo.New(new(undo.Memory))
	v.Cleanup(func() {
		if err := stack.Run(context.Background()); err != nil {
			v.Errorf("end the machine: %v", err)
		}
		if v.Failed() && parts.QEMU != nil {
			v.Logf("the console ended with:\n%s", parts.QEMU.ConsoleTail())
		}
	})
	ctx, cancel := context.WithTimeout(v.Context(), pace.Of(limit))
	defer cancel()
	v.guest, err = guestvm.Boot(ctx, guestvm.Config{
		Machine: vmm.Spec{Dir: dir, KernelParams: append([]string{"agent.hotplug_timeout=60"}, o.Params...)},
		Accel:   "tcg", StopTimeout: limit, Log: log,
	}, parts, stack)
	v.Must(err)
	v.control(ctx)
	conn, err := v.guest.Dial(ctx, api.PortAgent)
	v.Must(err)
	client := ttrpc.NewClient(conn)
	v.Cleanup(func() { _ = client.Close() })
	v.Agent = agentpb.NewAgentServiceClient(client)
	return v
}

// arguments returns what completes QEMU's arguments.
func (v *VM) arguments(o Options) func(vmm.Spec) []string {
	v.Helper()
	repo, err := harness.Repository()
	v.Must(err)
	agent := os.Getenv(AgentEnv)
	if agent == "" {
		agent = filepath.Join(repo.Bin(), "kata-agent")
	}
	image := filepath.Join(v.Dir, "initrd.img")
	v.Must(writeInitrd(image, agent))
	memory, smp := cmp.Or(o.Memory, "512M"), cmp.Or(o.SMP, "1")
	size, _, _ := strings.Cut(memory, ",")
	return func(spec vmm.Spec) []string {
		params := "console=ttyS0 quiet panic=-1 no_timer_check noreplace-smp tsc=reliable transparent_hugepage=madvise " +
			strings.Join(spec.KernelParams, " ")
		args := []string{
			"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
			"-machine", "q35,memory-backend=memory,sata=off,smbus=off,vmport=off,usb=off" + o.Machine,
			"-accel", "tcg,tb-size=64,thread=single", "-cpu", "max", "-smp", smp, "-m", memory,
			"-object", "memory-backend-memfd,id=memory,share=on,size=" + size,
			"-kernel", repo.Kernel(), "-initrd", image, "-append", params,
			"-chardev", "socket,id=qmp,server=on,wait=off,path=" + filepath.Join(v.Dir, "qmp.sock"), "-mon", "chardev=qmp,mode=control",
			"-serial", "stdio",
			"-chardev", "socket,id=vsock,path=" + spec.Vsock.Socket, "-device", "vhost-user-vsock-pci,chardev=vsock,addr=03",
			"-device", "virtio-rng-pci,addr=02",
		}
		return append(append(args, buses...), o.Args...)
	}
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

// control connects to QEMU's monitor, which listens before the guest runs.
func (v *VM) control(ctx context.Context) {
	v.Helper()
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "unix", filepath.Join(v.Dir, "qmp.sock"))
	v.Must(err)
	v.QMP, err = qmp.New(ctx, conn.(*net.UnixConn))
	v.Must(err)
	v.Cleanup(v.QMP.Close)
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

// AddDisk makes a file known to QEMU as a disk called id, for device_add.
func (v *VM) AddDisk(id, file string) {
	v.Helper()
	v.Do("blockdev-add", map[string]any{
		"driver": "raw", "node-name": id, "file": map[string]any{"driver": "file", "filename": file},
	})
}

// Plug adds a device. Its properties are pairs of a name and a value.
func (v *VM) Plug(driver, id, bus string, properties map[string]any) {
	v.Helper()
	args := map[string]any{"driver": driver, "id": id, "bus": bus}
	for key, value := range properties {
		args[key] = value
	}
	v.Do("device_add", args)
}

// Unplug removes a device and returns when the guest has let it go.
func (v *VM) Unplug(id string) {
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
