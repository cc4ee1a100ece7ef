package qemu

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"kata/host/vmm"
	"kata/host/vmm/qemu/qmp"
)

const (
	statusPaused = "paused"
	// statusSaved is a paused machine's after a snapshot.
	statusSaved = "postmigrate"

	// stateFile is the state of vCPUs and devices, in a snapshot's folder.
	stateFile = "state"
	// stateFD is the name under which QEMU has it.
	stateFD = "state"
)

// Pause implements [vmm.Pauser].
func (m *Machine) Pause(ctx context.Context) error { return m.setRunning(ctx, "pause", "stop") }

// Resume implements [vmm.Pauser].
func (m *Machine) Resume(ctx context.Context) error { return m.setRunning(ctx, "resume", "cont") }

// setRunning issues a command that QEMU takes in either state.
func (m *Machine) setRunning(ctx context.Context, what, command string) error {
	q, err := m.running()
	if err == nil {
		err = q.Execute(ctx, command, nil, nil)
	}
	if err != nil {
		return fmt.Errorf("%s machine %s: %w", what, m.spec.ID, err)
	}
	return nil
}

// Snapshot implements [vmm.Snapshotter]. It is a migration into a file that
// leaves out memory which is a shared file already.
func (m *Machine) Snapshot(ctx context.Context, dir string) error {
	if err := m.snapshot(ctx, filepath.Join(dir, stateFile)); err != nil {
		return fmt.Errorf("save machine %s: %w", m.spec.ID, err)
	}
	return nil
}

func (m *Machine) snapshot(ctx context.Context, path string) (err error) {
	q, err := m.running()
	if err != nil {
		return err
	}
	if m.spec.MemoryFile == nil || m.spec.MemoryPrivate {
		return errors.New("its memory is in no shared file")
	}
	switch status, err := queryStatus(ctx, q); {
	case err != nil:
		return err
	case status != statusPaused && status != statusSaved:
		return fmt.Errorf("it is not paused: its status is %q", status)
	}
	file, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if err = errors.Join(err, file.Close()); err != nil {
			_ = os.Remove(path)
		}
	}()
	return migrate(ctx, q, "migrate", file)
}

// restore loads a saved machine into a QEMU that waits for it, and runs it.
func (m *Machine) restore(ctx context.Context, q *qmp.Client) error {
	file, err := os.Open(filepath.Join(m.spec.Restore, stateFile))
	if err != nil {
		return fmt.Errorf("restore: %w", err)
	}
	defer file.Close()
	if err := migrate(ctx, q, "migrate-incoming", file); err != nil {
		return fmt.Errorf("restore: %w", err)
	}
	return q.Execute(ctx, "cont", nil, nil)
}

// migrate moves the machine's state to or from a file and waits for the end.
func migrate(ctx context.Context, q *qmp.Client, command string, file *os.File) error {
	events := q.Subscribe(eventsKept)
	defer events.Close()
	on := func(name string) args { return args{"capability": name, "state": true} }
	err := q.Execute(ctx, "migrate-set-capabilities", args{"capabilities": []args{on("events"), on("x-ignore-shared")}}, nil)
	if err != nil {
		return err
	}
	if err := passFile(ctx, q, stateFD, file); err != nil {
		return err
	}
	defer dropFile(ctx, q, stateFD)
	if err := q.Execute(ctx, command, args{"uri": "fd:" + stateFD}, nil); err != nil {
		return err
	}
	err = awaitMigration(ctx, q, events)
	if err != nil && command == "migrate" {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoWait)
		defer cancel()
		_ = q.Execute(ctx, "migrate_cancel", nil, nil) // it may have ended
	}
	return err
}

func awaitMigration(ctx context.Context, q *qmp.Client, events *qmp.Subscription) error {
	for {
		select {
		case event, ok := <-events.Events():
			if !ok {
				return q.Err()
			}
			var data struct{ Status string }
			_ = json.Unmarshal(event.Data, &data)
			switch {
			case event.Name != "MIGRATION":
			case data.Status == "completed":
				return nil
			case data.Status == "failed", data.Status == "cancelled":
				return migrationError(ctx, q, data.Status)
			}
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// migrationError asks for the reason.
func migrationError(ctx context.Context, q *qmp.Client, status string) error {
	var info struct {
		Reason string `json:"error-desc"`
	}
	if err := q.Execute(ctx, "query-migrate", nil, &info); err != nil || info.Reason == "" {
		return fmt.Errorf("QEMU says that it has %s", status)
	}
	return errors.New(info.Reason)
}

var _ vmm.Snapshotter = (*Machine)(nil)
