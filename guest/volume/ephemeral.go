package volume

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Limits are new limits of a tmpfs.
type Limits struct {
	// Path is where it is mounted.
	Path string
	// Options are those of mount(8): "size=", "nr_blocks=" and "nr_inodes=".
	// "remount" and "fsgid=", which hosts send along, mean nothing here. Without
	// any the tmpfs stays as it is.
	Options []string
}

// Limit gives each tmpfs its new limits: all of them, or none if one of the list
// is wrong or too small for what is in use. The error names the entry.
func Limit(list []Limits) error {
	changes := make([]*change, 0, len(list))
	defer func() {
		for _, c := range changes {
			c.close()
		}
	}()
	for i, l := range list {
		c, err := prepare(l)
		if err != nil {
			return fmt.Errorf("storages[%d]: mount_point %q: %w", i, l.Path, err)
		}
		changes = append(changes, c)
	}
	for i, c := range changes {
		if err := c.apply(); err != nil {
			err = fmt.Errorf("storages[%d]: mount_point %q: %w", i, list[i].Path, err)
			for _, before := range changes[:i] {
				err = errors.Join(err, before.revert())
			}
			return err
		}
	}
	return nil
}

// change is a tmpfs and what it is to get.
type change struct {
	mounted int // O_PATH
	fs      int // the context that has the new parameters
	// before holds the present values of what is changed.
	before []string
}

func (c *change) close() {
	unix.Close(c.fs)
	unix.Close(c.mounted)
}

// prepare checks everything that can be checked without changing anything.
func prepare(l Limits) (_ *change, err error) {
	c := &change{mounted: -1, fs: -1}
	defer func() {
		if err != nil {
			c.close() // closing -1 does nothing
		}
	}()
	if c.mounted, err = openMounted(l.Path); err != nil {
		return nil, err
	}
	var stat unix.Statfs_t
	if err := unix.Fstatfs(c.mounted, &stat); err != nil {
		return nil, os.NewSyscallError("fstatfs", err)
	}
	if stat.Type != unix.TMPFS_MAGIC {
		return nil, fail(ErrInvalid, "it is no tmpfs")
	}
	if c.fs, err = pick(c.mounted); err != nil {
		return nil, err
	}
	for _, option := range l.Options {
		key, value, _ := strings.Cut(option, "=")
		switch key {
		case "", "remount", "fsgid":
			continue
		case "size", "nr_blocks":
			c.before = append(c.before, "nr_blocks="+strconv.FormatUint(stat.Blocks, 10))
		case "nr_inodes":
			c.before = append(c.before, "nr_inodes="+strconv.FormatUint(stat.Files, 10))
		default:
			return nil, fail(ErrInvalid, "option %q is none that can be changed: size, nr_blocks, nr_inodes", option)
		}
		if strings.Trim(value, "0kKmMgGtTpPeE%") == "" {
			return nil, fail(ErrInvalid, "option %q would be no limit", option)
		}
		if err := set(c.fs, option); err != nil {
			return nil, fail(ErrInvalid, "option %q: %v", option, err)
		}
	}
	return c, nil
}

// pick returns a context for changing the file system mounted at a descriptor.
func pick(mounted int) (int, error) {
	fs, err := unix.Fspick(mounted, "", unix.FSPICK_CLOEXEC|unix.FSPICK_EMPTY_PATH)
	return fs, os.NewSyscallError("fspick", err)
}

// set gives a file system context a parameter.
func set(fs int, option string) error {
	key, value, _ := strings.Cut(option, "=")
	return explained(fs, unix.FsconfigSetString(fs, key, value))
}

// explained adds what the kernel says about a file system context to err.
func explained(fs int, err error) error {
	if err == nil {
		return nil
	}
	text := make([]byte, 256)
	n, readErr := unix.Read(fs, text)
	if readErr != nil || n <= 2 { // a level and a space, then the text
		return err
	}
	return fmt.Errorf("%w (%s)", err, strings.TrimSpace(string(text[2:n])))
}

func (c *change) apply() error {
	if len(c.before) == 0 {
		return nil
	}
	err := unix.FsconfigReconfigure(c.fs)
	if err == unix.EINVAL { // too small for what is in it, or no limit until now
		return fail(ErrUnable, "%v", explained(c.fs, err))
	}
	return explained(c.fs, err)
}

// revert undoes apply.
func (c *change) revert() error {
	if len(c.before) == 0 {
		return nil
	}
	fs, err := pick(c.mounted)
	if err != nil {
		return err
	}
	defer unix.Close(fs)
	for _, option := range c.before {
		if err := set(fs, option); err != nil {
			return err
		}
	}
	if err := unix.FsconfigReconfigure(fs); err != nil {
		return fmt.Errorf("undo: %w", explained(fs, err))
	}
	return nil
}
