package spec

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// initPIDFile is where runc's shim has it.
const initPIDFile = "init.pid"

// WriteInitPID notes in the bundle which process on the host stands for the
// container's first one, for whoever is asked when the shim is gone.
func WriteInitPID(bundle string, pid int) error {
	path := filepath.Join(bundle, initPIDFile)
	hidden := filepath.Join(bundle, "."+initPIDFile)
	if err := os.WriteFile(hidden, strconv.AppendInt(nil, int64(pid), 10), 0o600); err != nil {
		return fmt.Errorf("note the pid of the container: %w", err)
	}
	if err := os.Rename(hidden, path); err != nil {
		return errors.Join(fmt.Errorf("note the pid of the container: %w", err), os.Remove(hidden))
	}
	return nil
}

// ReadInitPID returns what WriteInitPID has noted; 0 is nothing.
func ReadInitPID(bundle string) int {
	text, err := os.ReadFile(filepath.Join(bundle, initPIDFile))
	if err != nil {
		return 0
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil || pid < 0 {
		return 0
	}
	return pid
}

// RemoveInitPID removes the note; none is no error.
func RemoveInitPID(bundle string) error {
	if err := os.Remove(filepath.Join(bundle, initPIDFile)); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
