package storage

import (
	"context"
	"errors"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"kata/guest/storage/mount"
	"kata/lib/fmt"
)

// mountHugePages reserves huge pages and mounts the file system that gives them
// out.
func mountHugePages(ctx context.Context, m *Manager, j *job) (release, error) {
	var options []string
	for _, option := range j.Options { // upstream sends both in one
		options = append(options, strings.Split(option, ",")...)
	}
	pageSize, size, err := hugeSizes(options)
	if err != nil {
		return nil, err
	}
	o, err := parse(options)
	if err != nil {
		return nil, err
	}
	give, err := m.reserve(ctx, pageSize, size/pageSize)
	if err != nil {
		return nil, err
	}
	tree, err := mount.FS("hugetlbfs", "nodev", o.Data, o.Attr)
	if err != nil {
		return nil, errors.Join(failed("mount hugetlbfs", err), give())
	}
	undo, err := m.attachOwned(ctx, tree, &o, j, true)
	if err != nil {
		return nil, errors.Join(err, give())
	}
	return func() error { return errors.Join(undo(), give()) }, nil
}

// hugeSizes returns the sizes among the options, in bytes.
func hugeSizes(options []string) (pageSize, size uint64, err error) {
	for _, option := range options {
		key, value, _ := strings.Cut(option, "=")
		var to *uint64
		switch key {
		case "pagesize":
			to = &pageSize
		case "size":
			to = &size
		default:
			continue
		}
		if *to, err = parseSize(value); err != nil || *to == 0 {
			return 0, 0, invalid("option", option, "is not a size in bytes")
		}
	}
	switch {
	case pageSize == 0 || pageSize%1024 != 0:
		return 0, 0, invalid("options", strings.Join(options, ","), "have no pagesize= of huge pages")
	case size < pageSize:
		return 0, 0, invalid("options", strings.Join(options, ","), "have no size= of a page or more")
	}
	return pageSize, size, nil
}

// parseSize parses bytes, with K, M or G as the kernel has them.
func parseSize(text string) (uint64, error) {
	shift := 0
	if n := len(text); n > 0 {
		switch text[n-1] | 0x20 {
		case 'k':
			shift = 10
		case 'm':
			shift = 20
		case 'g':
			shift = 30
		}
		if shift > 0 {
			text = text[:n-1]
		}
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err == nil && n > 1<<62>>shift {
		err = strconv.ErrRange
	}
	return n << shift, err
}

// reserve adds pages to those that the kernel keeps, and returns how to give
// them back.
func (m *Manager) reserve(ctx context.Context, pageSize, pages uint64) (release, error) {
	file := "/sys/kernel/mm/hugepages/hugepages-" + strconv.FormatUint(pageSize/1024, 10) + "kB/nr_hugepages"
	if _, err := os.Stat(file); errors.Is(err, os.ErrNotExist) {
		return nil, invalid("option", "pagesize="+strconv.FormatUint(pageSize, 10), "is no size of huge pages of this machine")
	}
	got, err := m.addPages(ctx, file, pageSize, int64(pages))
	if err == nil && got < int64(pages) {
		_, back := m.addPages(context.WithoutCancel(ctx), file, pageSize, -got)
		err = errors.Join(fmt.Errorf("%d of %d huge pages of %d bytes are to be had", got, pages, pageSize), back)
	}
	if err != nil {
		return nil, err
	}
	return func() error {
		_, err := m.addPages(context.Background(), file, pageSize, -int64(pages))
		return err
	}, nil
}

// addPages changes the number of huge pages and returns by how many. One at a
// time does so: the kernel takes a number, not a change.
func (m *Manager) addPages(ctx context.Context, file string, pageSize uint64, n int64) (int64, error) {
	select {
	case m.pages <- struct{}{}:
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	defer func() { <-m.pages }()
	// The kernel would take everything for them, and then kill for want of memory.
	available, err := availableMemory()
	if err != nil {
		return 0, err
	}
	if n > 0 && (available < spareMemory || uint64(n) > (available-spareMemory)/pageSize) {
		return 0, fmt.Errorf("%d huge pages of %d bytes: %w (%d bytes are available)", n, pageSize, unix.ENOMEM, available)
	}
	before, err := readNumber(file)
	if err != nil {
		return 0, err
	}
	text := strconv.FormatInt(max(before+n, 0), 10)
	if err := os.WriteFile(file, []byte(text), 0); err != nil {
		return 0, err
	}
	after, err := readNumber(file)
	return after - before, err
}

// spareMemory is what huge pages leave for everything else.
const spareMemory = 32 << 20

// availableMemory returns how many bytes can be had without swapping.
func availableMemory() (uint64, error) {
	text, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(string(text), "MemAvailable:")
	value, _, _ := strings.Cut(rest, "kB")
	n, err := strconv.ParseUint(strings.TrimSpace(value), 10, 64)
	return n << 10, err
}

func readNumber(file string) (int64, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
	if err != nil {
		return 0, failed(file, err)
	}
	return n, nil
}
