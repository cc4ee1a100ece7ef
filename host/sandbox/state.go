package sandbox

import (
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"kata/host/process"
)

const (
	stateVersion = 1
	stateFile    = "state.json"
	// maxID keeps every socket below the sandbox's folder within the 107 bytes
	// of a unix socket address (unix(7)); containerd's own limit is the same.
	maxID = 76
)

// State is what must survive the shim, so that Cleanup can release it after a
// SIGKILL: it is on disk before the resource is used. Mounts are not in it;
// they live in the shim's private mount namespace and end with it.
type State struct {
	Version   int
	ID        string
	Namespace string
	// Bundle tells sandboxes of the same id apart: two containerd namespaces,
	// or two daemons, may both run a container called "test".
	Bundle     string
	Shim       process.ID
	Processes  []HostProcess `json:",omitempty"`
	Containers []string      `json:",omitempty"`
}

// HostProcess is a host process that the sandbox owns.
type HostProcess struct {
	Name string
	ID   process.ID
}

// store keeps State on disk below dir. It is safe for concurrent use.
type store struct {
	dir string

	mu    sync.Mutex
	state State
}

// claim makes the sandbox's folder below root and writes its first state. A
// folder that an earlier run of the same bundle left is an error wrapping
// fs.ErrExist: clean it up first. One that belongs to another bundle makes way
// by name.
func claim(root string, state State) (*store, error) {
	if err := checkID(state.ID); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(root, 0o711); err != nil {
		return nil, fmt.Errorf("create state folder: %w", err)
	}
	state.Version = stateVersion
	var err error
	for _, dir := range candidates(root, state.ID, state.Bundle) {
		if err = os.Mkdir(dir, 0o711); err == nil {
			s := &store{dir: dir, state: state}
			if err := s.save(); err != nil {
				return nil, errors.Join(err, os.RemoveAll(dir))
			}
			return s, nil
		}
		if !errors.Is(err, fs.ErrExist) {
			break
		}
		if old, readErr := readState(dir); readErr != nil || old.Bundle == state.Bundle {
			break
		}
	}
	return nil, fmt.Errorf("create folder of sandbox %s: %w", state.ID, err)
}

// find returns the folder of the sandbox id of bundle, or an error wrapping
// fs.ErrNotExist. A folder whose state cannot be read counts as the one sought
// when it bears the plain id: it is what a crash before the first save leaves.
func find(root, id, bundle string) (string, State, error) {
	if err := checkID(id); err != nil {
		return "", State{}, err
	}
	for _, dir := range candidates(root, id, bundle) {
		state, err := readState(dir)
		switch {
		case err == nil && (bundle == "" || state.Bundle == bundle):
			return dir, state, nil
		case err != nil && dirExists(dir):
			return dir, State{ID: id}, nil
		}
	}
	return "", State{}, fmt.Errorf("sandbox %s below %s: %w", id, root, fs.ErrNotExist)
}

func candidates(root, id, bundle string) []string {
	h := fnv.New32a()
	_, _ = h.Write([]byte(bundle))
	return []string{filepath.Join(root, id), filepath.Join(root, fmt.Sprintf("%s-%08x", id, h.Sum32()))}
}

func checkID(id string) error {
	if id == "" || len(id) > maxID || strings.Contains(id, "/") || strings.HasPrefix(id, ".") {
		return fmt.Errorf("sandbox id %q is not a name of 1 to %d characters without slashes", id, maxID)
	}
	return nil
}

func dirExists(dir string) bool {
	info, err := os.Lstat(dir)
	return err == nil && info.IsDir()
}

func readState(dir string) (State, error) {
	var state State
	b, err := os.ReadFile(filepath.Join(dir, stateFile))
	if err != nil {
		return state, err
	}
	if err := json.Unmarshal(b, &state); err != nil {
		return state, fmt.Errorf("read %s: %w", filepath.Join(dir, stateFile), err)
	}
	return state, nil
}

// addProcess records a host process of the sandbox.
func (s *store) addProcess(name string, id process.ID) error {
	return s.update(func(state *State) { state.Processes = append(state.Processes, HostProcess{name, id}) })
}

// addContainer records the id of a container, by which people look for its pod.
func (s *store) addContainer(id string) error {
	return s.update(func(state *State) { state.Containers = append(state.Containers, id) })
}

// removeContainer takes it back. A sandbox that has been released has no file
// any more.
func (s *store) removeContainer(id string) error {
	err := s.update(func(state *State) {
		state.Containers = slices.DeleteFunc(state.Containers, func(c string) bool { return c == id })
	})
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

func (s *store) update(change func(*State)) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(&s.state)
	return s.save()
}

// save replaces the file by rename, so that a reader never meets half of it.
// It does not sync: the folder is on a tmpfs, and what it describes does not
// survive a crash of the host either.
func (s *store) save() error {
	b, err := json.MarshalIndent(s.state, "", "  ")
	if err != nil {
		return fmt.Errorf("encode state of sandbox %s: %w", s.state.ID, err)
	}
	name := filepath.Join(s.dir, stateFile)
	if err := os.WriteFile(name+".new", b, 0o600); err != nil {
		return fmt.Errorf("save state of sandbox %s: %w", s.state.ID, err)
	}
	if err := os.Rename(name+".new", name); err != nil {
		return fmt.Errorf("save state of sandbox %s: %w", s.state.ID, err)
	}
	return nil
}
