package qemu

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"kata/host/vmm/qemu/qmp"
)

// ResizeVCPUs implements [vmm.VCPUResizer].
func (m *Machine) ResizeVCPUs(ctx context.Context, n int) (int, error) {
	have, err := m.resizeVCPUs(ctx, n)
	if err != nil {
		err = fmt.Errorf("give machine %s %d vCPUs: %w", m.spec.ID, n, err)
	}
	return have, err
}

// vcpu is a place for a vCPU, in QEMU's words.
type vcpu struct {
	Type  string         `json:"type"`
	Props map[string]any `json:"props"`
	Path  string         `json:"qom-path"` // "" while it is empty
}

func (c *vcpu) core() int {
	core, _ := c.Props["core-id"].(float64)
	return int(core)
}

func (c *vcpu) name() string { return fmt.Sprintf("cpu%d", c.core()) }

// resizeVCPUs adds vCPUs in the order of their core ids and removes them in the
// reverse: a guest that is given the highest first hangs, which is the order in
// which QEMU names the places (measured, 9 of 9).
func (m *Machine) resizeVCPUs(ctx context.Context, n int) (int, error) {
	if most := max(m.spec.MaxVCPUs, m.spec.VCPUs); n < m.spec.VCPUs || n > most {
		return 0, fmt.Errorf("it can have %d to %d", m.spec.VCPUs, most)
	}
	q, err := m.running()
	if err != nil {
		return 0, err
	}
	if err := m.resizing.take(ctx); err != nil {
		return 0, err
	}
	defer m.resizing.give()
	var places []vcpu
	if err := q.Execute(ctx, "query-hotpluggable-cpus", nil, &places); err != nil {
		return 0, err
	}
	slices.SortFunc(places, func(a, b vcpu) int { return a.core() - b.core() })
	have := 0
	for _, place := range places {
		if place.Path != "" {
			have++
		}
	}
	for _, place := range places {
		if place.Path != "" || have >= n {
			continue
		}
		options := args{"driver": place.Type, "id": place.name()}
		for key, value := range place.Props {
			options[key] = value
		}
		if err := q.Execute(ctx, "device_add", options, nil); err != nil {
			return have, err
		}
		have++
	}
	if have > n && m.oneThread {
		// The thread of all vCPUs would wait for its own end: QEMU aborts (7.2).
		return have, errors.New("QEMU cannot take vCPUs back while one thread emulates all of them")
	}
	for _, place := range slices.Backward(places) {
		if place.Path == "" || have <= n || place.core() < m.spec.VCPUs {
			continue
		}
		if err := awaitDeleted(ctx, q, place.name()); err != nil {
			return have, err
		}
		have--
	}
	return have, nil
}

// Hot memory is one virtio-mem device, whose size changes in blocks. Its memory
// is a file of the full size that costs nothing until it is used.
const (
	hotMemory       = "hotmem"
	hotBackend      = "hotmemory"
	hotPath         = "/machine/peripheral/" + hotMemory
	hotBlockMiB     = 2
	hotAlignmentMiB = 128 // the guest's memory blocks
	propRequested   = "requested-size"
	propSize        = "size"
	bytesPerMiB     = 1 << 20
)

// ResizeMemory implements [vmm.MemoryResizer].
func (m *Machine) ResizeMemory(ctx context.Context, mib int) (int, error) {
	have, err := m.resizeMemory(ctx, mib)
	if err != nil {
		err = fmt.Errorf("give machine %s %d MiB of memory: %w", m.spec.ID, mib, err)
	}
	return have, err
}

func (m *Machine) resizeMemory(ctx context.Context, mib int) (int, error) {
	if most := max(m.spec.MaxMemoryMiB, m.spec.MemoryMiB); mib < m.spec.MemoryMiB || mib > most {
		return 0, fmt.Errorf("it can have %d to %d", m.spec.MemoryMiB, most)
	}
	q, err := m.running()
	if err != nil {
		return 0, err
	}
	if m.spec.MaxMemoryMiB <= m.spec.MemoryMiB {
		return m.spec.MemoryMiB, nil
	}
	if err := m.resizing.take(ctx); err != nil {
		return 0, err
	}
	defer m.resizing.give()
	events := q.Subscribe(eventsKept)
	defer events.Close()
	want := roundUp(mib-m.spec.MemoryMiB, hotBlockMiB)
	if err := q.Execute(ctx, "qom-set", args{"path": hotPath, "property": propRequested, "value": int64(want) * bytesPerMiB}, nil); err != nil {
		return m.spec.MemoryMiB, err
	}
	for {
		have, err := hotSize(ctx, q)
		if err != nil || have == want {
			return m.spec.MemoryMiB + have, err
		}
		if err := awaitSize(ctx, q, events); err != nil {
			return m.spec.MemoryMiB + have, err
		}
	}
}

func roundUp(n, step int) int { return (n + step - 1) / step * step }

// hotSize returns how many MiB the guest has plugged.
func hotSize(ctx context.Context, q *qmp.Client) (int, error) {
	var size int64
	err := q.Execute(ctx, "qom-get", args{"path": hotPath, "property": propSize}, &size)
	return int(size / bytesPerMiB), err
}

// awaitSize waits until the guest may have changed something about its memory.
// QEMU holds the event back for up to a second, too long to wait for it alone.
func awaitSize(ctx context.Context, q *qmp.Client, events *qmp.Subscription) error {
	again := time.NewTimer(lookAgain)
	defer again.Stop()
	select {
	case _, ok := <-events.Events():
		if !ok {
			return q.Err()
		}
		return nil
	case <-again.C:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("the guest has not followed: %w", context.Cause(ctx))
	}
}

// lookAgain is how often the size is asked for: a guest plugs 128 MiB in 5 to 16 ms.
const lookAgain = 10 * time.Millisecond

// turn lets one caller in at a time.
type turn chan struct{}

func newTurn() turn { return make(turn, 1) }

func (t turn) take(ctx context.Context) error {
	select {
	case t <- struct{}{}:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for another change of the machine: %w", context.Cause(ctx))
	}
}

func (t turn) give() { <-t }
