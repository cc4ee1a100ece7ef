package qemu

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"

	"kata/host/vmm"
	"kata/host/vmm/qemu/qmp"
)

// args are the arguments of a QMP command (QEMU's qapi/*.json).
type args map[string]any

var (
	_ vmm.BlockPlugger   = (*Machine)(nil)
	_ vmm.BlockResizer   = (*Machine)(nil)
	_ vmm.NetworkPlugger = (*Machine)(nil)
	_ vmm.SharePlugger   = (*Machine)(nil)
	_ vmm.VsockPlugger   = (*Machine)(nil)
	_ vmm.Locator        = (*Machine)(nil)
	_ vmm.VCPUResizer    = (*Machine)(nil)
	_ vmm.MemoryResizer  = (*Machine)(nil)
)

// errNotRunning is wrapped when a power is used before Start or after the end.
var errNotRunning = errors.New("the machine does not run")

// running returns the control channel of a machine that runs.
func (m *Machine) running() (*qmp.Client, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.control == nil {
		return nil, errNotRunning
	}
	return m.control, nil
}

// Control returns the control channel of a machine that runs, for what is no power
// of it: a test's SCSI disk, a look at QEMU's own books.
func (m *Machine) Control() (*qmp.Client, error) { return m.running() }

// part is one step of plugging a device, and how it is taken back. All names in
// QEMU are made from the device's serial number, which is never used again.
type part struct {
	add    func(ctx context.Context, q *qmp.Client, serial int) error
	remove func(ctx context.Context, q *qmp.Client, serial int) error
}

// plug makes what is behind a device, then the device in a free root port, with
// the properties given.
func (m *Machine) plug(ctx context.Context, id string, parts []part, properties func(serial int) args) (path vmm.PCIPath, err error) {
	q, err := m.running()
	if err != nil {
		return "", err
	}
	d, err := m.slots.take(id)
	if err != nil {
		return "", err
	}
	done := 0
	defer func() {
		if err != nil {
			err = errors.Join(err, m.takeBack(ctx, q, d, parts[:done]))
		}
	}()
	for _, p := range parts {
		if err := p.add(ctx, q, d.serial); err != nil {
			return "", err
		}
		done++
	}
	options := properties(d.serial)
	options["id"], options["bus"], options["addr"] = deviceName(d.serial), portID(d.port), "00"
	if err := q.Execute(ctx, "device_add", options, nil); err != nil {
		return "", err
	}
	m.slots.done(d, parts)
	return d.path, nil
}

// takeBack undoes a plug that has failed. When the caller's time was up the device
// may have come into being all the same; if the guest does not let it go soon, it
// is left for Unplug.
func (m *Machine) takeBack(ctx context.Context, q *qmp.Client, d *device, parts []part) error {
	late := ctx.Err() != nil
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoWait)
	defer cancel()
	if late {
		if err := awaitDeleted(ctx, q, deviceName(d.serial)); err != nil {
			m.slots.done(d, parts)
			return fmt.Errorf("take it back: %w", err)
		}
	}
	err := removeParts(ctx, q, d.serial, parts)
	m.slots.free(d)
	return err
}

func removeParts(ctx context.Context, q *qmp.Client, serial int, parts []part) error {
	var errs []error
	for i := range parts {
		if err := parts[len(parts)-1-i].remove(ctx, q, serial); err != nil && !isNotFound(err) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// Unplug implements [vmm.Unplugger].
func (m *Machine) Unplug(ctx context.Context, id string) error {
	if err := m.unplug(ctx, id); err != nil {
		return fmt.Errorf("unplug %s from machine %s: %w", id, m.spec.ID, err)
	}
	return nil
}

func (m *Machine) unplug(ctx context.Context, id string) error {
	q, err := m.running()
	if err != nil {
		return err
	}
	d, err := m.slots.claim(id)
	if err != nil {
		return err
	}
	if err := awaitDeleted(ctx, q, deviceName(d.serial)); err != nil {
		m.slots.unclaim(d)
		return err
	}
	if err := removeParts(ctx, q, d.serial, d.parts); err != nil {
		m.slots.unclaim(d)
		return err
	}
	m.slots.free(d)
	return nil
}

// awaitDeleted asks the guest to let a device go and waits until it has. A
// request that is pending already is not repeated.
func awaitDeleted(ctx context.Context, q *qmp.Client, name string) error {
	events := q.Subscribe(eventsKept)
	defer events.Close()
	err := q.Execute(ctx, "device_del", args{"id": name}, nil)
	if isNotFound(err) {
		return nil
	}
	// QEMU has no error class for "already in the process of unplug"; whether it
	// is that, the wait tells.
	var refused *qmp.Error
	if err != nil && !errors.As(err, &refused) {
		return err
	}
	for {
		select {
		case event, ok := <-events.Events():
			if !ok {
				return q.Err()
			}
			var data struct{ Device string }
			_ = json.Unmarshal(event.Data, &data)
			switch {
			case data.Device != name:
			case event.Name == "DEVICE_DELETED":
				return nil
			case event.Name == "DEVICE_UNPLUG_GUEST_ERROR":
				return errors.New("the guest refuses")
			}
		case <-ctx.Done():
			return errors.Join(fmt.Errorf("the guest does not let it go: %w", context.Cause(ctx)), err)
		}
	}
}

// Locate implements [vmm.Locator].
func (m *Machine) Locate(id string) (vmm.PCIPath, bool) {
	if d, ok := m.slots.locate(id); ok {
		return d.path, true
	}
	return "", false
}

func deviceName(serial int) string { return fmt.Sprintf("dev%d", serial) }

func isNotFound(err error) bool {
	var refused *qmp.Error
	return errors.As(err, &refused) && refused.Class == "DeviceNotFound"
}

// passFile hands a descriptor to QEMU under a name (getfd), for one command that
// takes it over. A command that fails before that leaves it with QEMU: dropFile.
func passFile(ctx context.Context, q *qmp.Client, name string, file *os.File) error {
	return q.ExecuteWithFile(ctx, "getfd", args{"fdname": name}, nil, file)
}

// dropFile closes a descriptor that was passed and not taken.
func dropFile(ctx context.Context, q *qmp.Client, name string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoWait)
	defer cancel()
	_ = q.Execute(ctx, "closefd", args{"fdname": name}, nil) // it is gone when it was taken
}
