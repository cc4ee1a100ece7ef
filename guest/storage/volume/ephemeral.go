package volume

import (
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
	changes := make([]change, len(list))
	defer func() {
		for i := range changes {
			changes[i].close()
		}
	}()
	for i := range changes {
		if err := changes[i].prepare(list[i]); err != nil {
			return named(i, list[i].Path, err)
		}
	}
	for i := range changes {
		err := changes[i].apply()
		if err == nil {
			continue
		}
		for before := range changes[:i] {
			if undo := changes[before].revert(); undo != nil {
				err = about("and "+list[before].Path+" keeps its new limits ("+undo.Error()+")", err)
			}
		}
		return named(i, list[i].Path, err)
	}
	return nil
}

// named says which storage an error is about.
func named(i int, path string, err error) error {
	return about("storages["+strconv.Itoa(i)+"]: mount_point "+path, err)
}

// change is a tmpfs and what it is to get. The zero value holds nothing.
type change struct {
	mounted int // O_PATH
	fs      int // the context that has the new parameters
	// before holds the present values of what is changed.
	before []string
}

func (c *change) close() {
	for _, fd := range [...]int{c.fs, c.mounted} {
		if fd > 0 {
			unix.Close(fd)
		}
	}
}

// prepare checks everything that can be checked without changing anything.
func (c *change) prepare(l Limits) (err error) {
	if c.mounted, err = openMounted(l.Path); err != nil {
		return err
	}
	var stat unix.Statfs_t
	if err := unix.Fstatfs(c.mounted, &stat); err != nil {
		return err
	}
	if stat.Type != unix.TMPFS_MAGIC {
		return fail(ErrInvalid, "it is no tmpfs")
	}
	if c.fs, err = pick(c.mounted); err != nil {
		return err
	}
	for _, option := range l.Options {
		key, value, _ := strings.Cut(option, "=")
		before := stat.Blocks
		reason := ""
		switch key {
		case "", "remount", "fsgid":
			continue
		case "size", "nr_blocks":
			key = "nr_blocks"
		case "nr_inodes":
			before = stat.Files
		default:
			reason = "is none that can be changed: size, nr_blocks, nr_inodes"
		}
		c.before = append(c.before, key+"="+decimal(before))
		if strings.Trim(value, "0kKmMgGtTpPeE%") == "" && reason == "" {
			reason = "would be no limit"
		}
		if reason == "" {
			if err := set(c.fs, option); err == nil {
				continue
			} else {
				reason = err.Error()
			}
		}
		return fail(ErrInvalid, "option "+strconv.Quote(option)+": "+reason)
	}
	return nil
}

// pick returns a context for changing the file system mounted at a descriptor.
func pick(mounted int) (int, error) {
	return unix.Fspick(mounted, "", unix.FSPICK_CLOEXEC|unix.FSPICK_EMPTY_PATH)
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
	reason := err.Error()
	text := make([]byte, 256)
	if n, err := unix.Read(fs, text); err == nil && n > 2 { // a level and a space, then the text
		reason += " (" + strings.TrimSpace(string(text[2:n])) + ")"
	}
	return fail(ErrUnable, reason)
}

func (c *change) apply() error {
	if len(c.before) == 0 {
		return nil
	}
	return explained(c.fs, unix.FsconfigReconfigure(c.fs))
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
	return explained(fs, unix.FsconfigReconfigure(fs))
}
