package helper

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"

	"kata/api"
	"kata/lib/fmt"
	"kata/lib/lzma"
)

// open returns a descriptor of a helper's program.
func (c *Config) open(name string) (int, error) {
	path := c.Dir + "/" + name
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if !errors.Is(err, unix.ENOENT) {
		if err != nil {
			return -1, &os.PathError{Op: "open", Path: path, Err: err}
		}
		return fd, nil
	}
	packed, err := mapFile(path + api.HelperPacked)
	if errors.Is(err, unix.ENOENT) {
		return -1, &MissingError{path}
	}
	if err != nil {
		return -1, err
	}
	defer unix.Munmap(packed)
	fd, err = c.unpack(name, packed)
	if err != nil {
		return -1, fmt.Errorf("unpack %s: %w", path+api.HelperPacked, err)
	}
	return fd, nil
}

// unpack returns a descriptor of what a packed file holds.
func (c *Config) unpack(name string, packed []byte) (fd int, err error) {
	size, err := lzma.Size(packed)
	if err != nil {
		return -1, err
	}
	agent, err := mapFile(c.Agent)
	if err != nil {
		return -1, err
	}
	defer unix.Munmap(agent)
	if fd, err = memory(name, size); err != nil {
		return -1, err
	}
	defer func() {
		if err != nil {
			_ = unix.Close(fd)
		}
	}()
	program, err := unix.Mmap(fd, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return -1, os.NewSyscallError("mmap", err)
	}
	defer unix.Munmap(program)
	return fd, lzma.Unpack(program, packed, agent)
}

// mapFile maps a file of the image, whose pages are there in any case.
func mapFile(path string) ([]byte, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(fd)
	var info unix.Stat_t
	if err := unix.Fstat(fd, &info); err != nil {
		return nil, &os.PathError{Op: "stat", Path: path, Err: err}
	}
	data, err := unix.Mmap(fd, 0, int(info.Size), unix.PROT_READ, unix.MAP_PRIVATE)
	if err != nil {
		return nil, &os.PathError{Op: "mmap", Path: path, Err: err}
	}
	return data, nil
}
