package bootstrap

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// writeFile replaces a file of the bundle by rename, so that a reader never
// meets half of it.
func writeFile(bundle, name string, content []byte) error {
	path := filepath.Join(bundle, name)
	hidden := filepath.Join(bundle, "."+name)
	if err := os.WriteFile(hidden, content, 0o600); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	if err := os.Rename(hidden, path); err != nil {
		return errors.Join(fmt.Errorf("write %s: %w", path, err), os.Remove(hidden))
	}
	return nil
}

// removeFiles removes files of the bundle; one that is not there is no error.
func removeFiles(bundle string, names ...string) error {
	var errs []error
	for _, name := range names {
		if err := os.Remove(filepath.Join(bundle, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
