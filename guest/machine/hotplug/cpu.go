package hotplug

import (
	"context"
	"strconv"

	"kata/guest/machine/uevent"
	"kata/lib/fmt"
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
		if came += more; came == n {
			return true, nil
		}
		return false, err
	})
	if err != nil {
		return fmt.Errorf("%d of %d CPUs came online: %w", came, n, err)
	}
	return nil
}

// checkRoom finds out whether n CPUs can come online at all.
func (m *Machine) checkRoom(n int) error {
	possible, err := read(m.system + "/cpu/possible")
	if err != nil {
		return err
	}
	online, err := read(m.system + "/cpu/online")
	if err != nil {
		return err
	}
	if most, now := count(possible), count(online); n > most-now {
		return fail(ErrInvalid, strconv.Itoa(now)+" of at most "+strconv.Itoa(most)+" CPUs are online already")
	}
	return nil
}

// count returns how many numbers are in a list of the kernel's such as "0-3,8"
// (admin-guide/cputopology.rst).
func count(list string) int {
	total, first, number := 0, -1, 0
	for _, c := range list + "," {
		switch c {
		case '-':
			first, number = number, 0
		case ',':
			if first < 0 {
				first = number
			}
			total += number - first + 1
			first, number = -1, 0
		default:
			number = number*10 + int(c-'0')
		}
	}
	return total
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
	return m.online(ctx, "cpu", "online", "0", "1", n)
}
