package cache

import (
	"errors"
	"io"
	"os"
	"path/filepath"
)

// Export copies one of the entry's files to a path, creating its folder. The
// path holds the old contents or the new, never a part, and a process that has
// the old file open keeps it.
func (e *Entry) Export(name, path string) error {
	if sum, err := HashFile(path); err == nil && sum == e.Files[name] {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	from, err := os.Open(e.Path(name))
	if err != nil {
		return err
	}
	defer from.Close()
	info, err := from.Stat()
	if err != nil {
		return err
	}
	to, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	defer os.Remove(to.Name()) // fails after the rename, as it should
	_, copyErr := io.Copy(to, from)
	err = errors.Join(copyErr, to.Chmod(info.Mode().Perm()), to.Sync(), to.Close())
	if err != nil {
		return err
	}
	return os.Rename(to.Name(), path)
}
