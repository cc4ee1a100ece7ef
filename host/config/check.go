package config

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/BurntSushi/toml"
	"golang.org/x/sys/unix"
)

// Search lists for paths that are not configured, in order of preference:
// what a distribution or an administrator installs, then upstream's static
// packages.

func hypervisorSearch() []string {
	return []string{
		"/usr/bin/qemu-system-x86_64",
		"/usr/local/bin/qemu-system-x86_64",
		"/usr/libexec/qemu-kvm",
		"/opt/kata/bin/qemu-system-x86_64",
	}
}

func kernelSearch() []string {
	return []string{
		"/usr/share/kata-containers/vmlinux.container",
		"/opt/kata/share/kata-containers/vmlinux.container",
		"/usr/share/kata-containers/vmlinuz.container",
		"/opt/kata/share/kata-containers/vmlinuz.container",
	}
}

func initrdSearch() []string {
	return []string{
		"/usr/share/kata-containers/kata-containers-initrd.img",
		"/opt/kata/share/kata-containers/kata-containers-initrd.img",
	}
}

func virtioFSDaemonSearch() []string {
	return []string{
		"/usr/libexec/virtiofsd",
		"/usr/lib/virtiofsd",
		"/usr/lib/qemu/virtiofsd",
		"/usr/libexec/kata-qemu/virtiofsd",
		"/opt/kata/libexec/virtiofsd",
		"/opt/kata/libexec/kata-qemu/virtiofsd",
	}
}

// Check completes the configuration for use on this host: paths that are not
// set are filled from the search lists, and every file that a VM needs is
// verified to be there and, for programs, to be executable. The first thing
// that is missing is returned as a *KeyError. It may be called again.
func (c *Config) Check() error {
	missing := c.check("")
	switch {
	case len(missing) == 0:
		return nil
	case c.byPod:
		return fmt.Errorf("annotation %s: %w", AnnotationPath, missing[0])
	}
	return missing[0]
}

// Missing does the work of Check and returns everything that is missing.
func (c *Config) Missing() []*KeyError { return c.check("") }

// check looks for search-list entries below root, for tests.
func (c *Config) check(root string) []*KeyError {
	files := []asset{
		{"path", &c.Driver.Path, hypervisorSearch(), true},
		{"kernel", &c.Machine.Kernel, kernelSearch(), false},
	}
	if c.Machine.Image != "" {
		files = append(files, asset{"image", &c.Machine.Image, nil, false})
	} else {
		files = append(files, asset{"initrd", &c.Machine.Initrd, initrdSearch(), false})
	}
	if c.Driver.Firmware != "" {
		files = append(files, asset{"firmware", &c.Driver.Firmware, nil, false})
	}
	files = append(files, asset{"virtio_fs_daemon", &c.FileShare.Daemon, virtioFSDaemonSearch(), true})
	var missing []*KeyError
	for _, f := range files {
		if err := c.find(root, f); err != nil {
			missing = append(missing, err)
		}
	}
	return missing
}

// asset is a file that a VM needs.
type asset struct {
	key     string
	path    *string
	search  []string
	program bool
}

func (c *Config) find(root string, a asset) *KeyError {
	at := toml.Key{"hypervisor", c.Driver.Name, a.key}
	fail := func(value, reason string, err error) *KeyError {
		e := &KeyError{File: c.Path, Key: at.String(), Value: value, Reason: reason, Err: err}
		if c.byPod {
			e.Value = ""
		}
		if c.Path != "" {
			e.Line = c.source.line(at)
		}
		return e
	}
	if *a.path != "" {
		if err := usable(*a.path, a.program); err != nil {
			return fail(format(*a.path), err.Error(), err)
		}
		return nil
	}
	var found error
	for _, candidate := range a.search {
		err := usable(root+candidate, a.program)
		if err == nil {
			*a.path = root + candidate
			return nil
		}
		if found == nil && !errors.Is(err, fs.ErrNotExist) {
			found = fmt.Errorf("%s: %w", candidate, err)
		}
	}
	if found != nil {
		return fail("", "not set, and the one found cannot be used: "+found.Error(), found)
	}
	return fail("", "not set, and none of these exists: "+strings.Join(a.search, ", "), fs.ErrNotExist)
}

// usable reports why a file cannot be used, without its name.
func usable(path string, program bool) error {
	info, err := os.Stat(path)
	if err != nil {
		return underlying(err)
	}
	if !info.Mode().IsRegular() {
		return errors.New("not a regular file")
	}
	mode, missing := uint32(unix.R_OK), "not readable"
	if program {
		mode, missing = unix.X_OK, "not executable"
	}
	if err := unix.Access(path, mode); err != nil {
		return fmt.Errorf("%s: %w", missing, err)
	}
	return nil
}
