package journal

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"kata/host/process"
)

// Entry is one resource. Its kinds are types of this package.
type Entry interface {
	fmt.Stringer
	// kind is the name on disk.
	kind() string
	// release gives the resource back; what is not there is no error. It may be
	// called again, by any process of the host.
	release(ctx context.Context) error
}

// kinds lists all there are, with how they are read.
var kinds = map[string]func([]byte) (Entry, error){
	Process{}.kind():   as[Process],
	Mount{}.kind():     as[Mount],
	Socket{}.kind():    as[Socket],
	Directory{}.kind(): as[Directory],
	Container{}.kind(): as[Container],
	Tap{}.kind():       as[Tap],
	Netns{}.kind():     as[Netns],
	Cgroup{}.kind():    as[Cgroup],

	CgroupDirs{}.kind(): as[CgroupDirs],
	Poststop{}.kind():   as[Poststop],
}

func as[T Entry](b []byte) (Entry, error) {
	var e T
	err := json.Unmarshal(b, &e)
	return e, err
}

func decode(kind string, b []byte) (Entry, error) {
	read, ok := kinds[kind]
	if !ok {
		return nil, fmt.Errorf("unknown kind of entry %q", kind)
	}
	e, err := read(b)
	if err != nil {
		return nil, fmt.Errorf("entry of kind %q: %w", kind, err)
	}
	return e, nil
}

// Process is a process that was started for the sandbox. Without an identity it
// is about to be started; a process that the shim starts has SIGKILL as its
// parent-death signal (prctl(2)), so that it does not outlive the shim before it
// is identified here.
type Process struct {
	Name string     `json:"name"`
	ID   process.ID `json:"id"`
	// RunsGuest says that the guest runs as long as this process does.
	RunsGuest bool `json:"runs_guest,omitempty"`
}

func (Process) kind() string { return "process" }

func (p Process) String() string {
	if p.ID.PID == 0 {
		return "process " + p.Name
	}
	return fmt.Sprintf("process %s (pid %d)", p.Name, p.ID.PID)
}

// release kills the process and waits for its end.
func (p Process) release(ctx context.Context) error {
	if p.ID.PID <= 0 {
		return nil
	}
	return p.ID.Kill(ctx)
}

// Socket is a unix socket's file.
type Socket struct {
	Path string `json:"path"`
}

func (Socket) kind() string { return "socket" }

func (s Socket) String() string { return "socket " + s.Path }

func (s Socket) release(context.Context) error {
	info, err := os.Lstat(s.Path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case info.Mode().Type() != fs.ModeSocket:
		return fmt.Errorf("%s is no socket", s.Path)
	}
	if err := os.Remove(s.Path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// Directory is a directory outside the sandbox's folder, which goes with all that
// is in it, but not with what is mounted there.
type Directory struct {
	Path string `json:"path"`
}

func (Directory) kind() string { return "directory" }

func (d Directory) String() string { return "directory " + d.Path }

func (d Directory) release(context.Context) error { return removeTree(d.Path, "") }

// Container is a container in the guest. It has nothing on the host but its
// mounts, and goes with the guest; it is written down for those who look for the
// pod of a container, and marked UsedByGuest.
type Container struct {
	ID string `json:"id"`
}

func (Container) kind() string { return "container" }

func (c Container) String() string { return "container " + c.ID }

func (Container) release(context.Context) error { return nil }

// Release gives back the resource of an entry that is in no journal.
func Release(ctx context.Context, e Entry) error { return e.release(ctx) }
