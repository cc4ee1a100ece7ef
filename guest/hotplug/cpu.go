package hotplug

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"

	"kata/guest/uevent"
)

// OnlineCPUs brings n CPUs online that have been plugged in and are not, those
// with the lowest numbers first. For CPUs that have not appeared yet it waits,
// at most for the machine's timeout and until ctx ends. When fewer came they stay
// online, and the error says how many. More than the machine can ever have are
// ErrInvalid, at once.
func (m *Machine) OnlineCPUs(ctx context.Context, n int) error {
	if err := m.checkRoom(n); err != nil {
		return err
	}
	came := 0
	err := uevent.Await(ctx, "a CPU that is to come online", m.timeout, func() (bool, error) {
		more, err := m.onlinePresent(ctx, n-came)
		came += more
		return came == n, err
	})
	if err != nil {
		return fmt.Errorf("%d of %d CPUs came online: %w", came, n, err)
	}
	return nil
}

// checkRoom finds out whether n CPUs can come online at all.
func (m *Machine) checkRoom(n int) error {
	var counts [2]int
	for i, name := range [...]string{"possible", "online"} {
		list, err := read(m.system + "/cpu/" + name)
		if err == nil {
			counts[i], err = count(list)
		}
		if err != nil {
			return fmt.Errorf("count CPUs: %w", err)
		}
	}
	possible, online := counts[0], counts[1]
	if n > possible-online {
		return fail(ErrInvalid, "%d of at most %d CPUs are online already", online, possible)
	}
	return nil
}

// onlinePresent brings at most n CPUs online that are there, and returns how many
// it has. Whoever does so at the same time does not get the same ones.
func (m *Machine) onlinePresent(ctx context.Context, n int) (came int, err error) {
	select {
	case m.turn <- struct{}{}:
	case <-ctx.Done():
		return 0, context.Cause(ctx)
	}
	defer func() { <-m.turn }()
	dir := m.system + "/cpu"
	cpus, err := numbered(dir, "cpu")
	if err != nil {
		return 0, fmt.Errorf("list CPUs: %w", err)
	}
	for _, cpu := range cpus {
		if came == n || ctx.Err() != nil {
			break
		}
		name := dir + "/cpu" + strconv.Itoa(cpu) + "/online"
		state, err := read(name)
		if err == nil && state == "0" {
			if err = write(name, "1"); err == nil {
				came++
			}
		}
		// The first CPU cannot go offline and mostly has no such file; another
		// one may just have been unplugged.
		if err != nil && !errors.Is(err, os.ErrNotExist) && !errors.Is(err, unix.ENODEV) {
			return came, fmt.Errorf("bring CPU %d online: %w", cpu, err)
		}
	}
	return came, nil
}
