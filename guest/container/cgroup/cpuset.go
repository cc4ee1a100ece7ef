package cgroup

import (
	"errors"
	"os"
	"strings"
	"sync"

	"kata/guest/container/cpulist"
	"kata/guest/fault"
	"kata/lib/fmt"
)

// placement is where a group's processes are asked to run, by the numbers of a
// host's processors and memory nodes. The guest has others, and gets more at run
// time, so the request is kept.
type placement struct {
	mu    sync.Mutex
	asked map[string]string // by file: cpuset.cpus, cpuset.mems
}

// isPlacement says whether a file holds numbers of processors or nodes.
func isPlacement(file string) bool { return file == "cpuset.cpus" || file == "cpuset.mems" }

// fit returns list as a part of what the guest has; see [cpulist.Set.Onto].
func (g *Group) fit(file, list string) (string, error) {
	have, err := g.read("../" + file + ".effective")
	if err != nil || strings.TrimSpace(list) == "" {
		return list, nil // no controller: writing says so
	}
	return cpulist.Map(strings.TrimSpace(list), strings.TrimSpace(have))
}

// fitAll maps the placements among settings to what the guest has.
func (g *Group) fitAll(settings []setting) ([]setting, error) {
	for i := range settings {
		s := &settings[i]
		if !isPlacement(s.file) {
			continue
		}
		list, err := g.fit(s.file, s.value)
		if err != nil {
			return nil, &InvalidError{Kind: fault.Invalid, Field: "linux.resources." + s.field, Cause: err}
		}
		s.asked, s.value = s.value, list
	}
	return settings, nil
}

// keep remembers the placements among settings, which have been set.
func (g *Group) keep(settings []setting) {
	g.placement.mu.Lock()
	defer g.placement.mu.Unlock()
	for _, s := range settings {
		if !isPlacement(s.file) {
			continue
		}
		if g.placement.asked == nil {
			g.placement.asked = make(map[string]string)
		}
		g.placement.asked[s.file] = s.asked
	}
}

// Refit sets once more where the processes may run, after the guest has got other
// processors or memory nodes.
func (g *Group) Refit() error {
	g.placement.mu.Lock()
	defer g.placement.mu.Unlock()
	var errs []error
	for file, asked := range g.placement.asked {
		list, err := g.fit(file, asked)
		if err == nil {
			err = g.write(file, list)
		}
		if err != nil && !gone(err) && !errors.Is(err, os.ErrClosed) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// CPUs returns the list of processors that the group's processes run on.
func (g *Group) CPUs() (string, error) {
	text, err := g.read("cpuset.cpus.effective")
	if err != nil {
		return "", fmt.Errorf("processors of the container: %w", err)
	}
	return strings.TrimSpace(text), nil
}
