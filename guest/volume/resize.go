package volume

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"kata/guest/uevent"
)

// Of linux/ext4.h (fs/ext4/ext4.h before 6.2) and xfs_fs.h.
const (
	ext4Resize     = 0x40086610 // EXT4_IOC_RESIZE_FS: blocks in total, 64 bits
	xfsGeometry    = 0x8100587e // XFS_IOC_FSGEOMETRY: struct xfs_fsop_geom
	xfsGrow        = 0x4010586e // XFS_IOC_FSGROWFSDATA: struct xfs_growfs_data
	xfsMagic       = 0x58465342
	sectorSize     = 512
	superblockAt   = 1024 // of ext4
	superblockSize = 1024
)

// Resize makes the file system that is mounted at path size bytes large, rounded
// down to what the file system can have, while it is in use. Its device has to be
// large enough; if it is about to grow Resize waits for that, at most for timeout
// and until ctx ends. A file system that is larger already stays as it is and
// gets ErrInvalid, one of that size is left alone.
func Resize(ctx context.Context, path string, size uint64, timeout time.Duration) error {
	if err := resize(ctx, path, size, timeout); err != nil {
		return fmt.Errorf("resize volume %s: %w", path, err)
	}
	return nil
}

// resizable is a file system that can grow.
type resizable interface {
	// size returns the size of its blocks, and how many there are.
	size() (block, blocks uint64, err error)
	grow(blocks uint64) error
}

func resize(ctx context.Context, path string, size uint64, timeout time.Duration) error {
	mounted, err := openMounted(path)
	if err != nil {
		return err
	}
	defer unix.Close(mounted)
	device, err := deviceOf(mounted)
	if err != nil {
		return err
	}
	fs, done, err := device.fileSystem(mounted)
	if err != nil {
		return err
	}
	defer done()
	block, blocks, err := fs.size()
	if err != nil {
		return err
	}
	switch want := size / block; {
	case want < blocks:
		return fail(ErrInvalid, "%d bytes are less than its %d, and it cannot shrink", size, blocks*block)
	case want == blocks:
		return nil
	default:
		if err := device.await(ctx, want*block, timeout); err != nil {
			return err
		}
		return fs.grow(want)
	}
}

// blockDevice is what a file system is on.
type blockDevice struct {
	sysfs string
	node  string // in /dev
	magic int64  // of the file system
}

// deviceOf returns the device of the file system that fd is in.
func deviceOf(fd int) (*blockDevice, error) {
	var fs unix.Statfs_t
	if err := unix.Fstatfs(fd, &fs); err != nil {
		return nil, os.NewSyscallError("fstatfs", err)
	}
	var stat unix.Stat_t
	if err := unix.Fstat(fd, &stat); err != nil {
		return nil, os.NewSyscallError("fstat", err)
	}
	d := &blockDevice{
		sysfs: fmt.Sprintf("/sys/dev/block/%d:%d", unix.Major(stat.Dev), unix.Minor(stat.Dev)),
		magic: int64(fs.Type),
	}
	text, err := os.ReadFile(d.sysfs + "/uevent")
	if errors.Is(err, os.ErrNotExist) {
		return nil, fail(ErrUnable, "its file system is on no block device")
	}
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(text)) {
		if name, ok := strings.CutPrefix(line, "DEVNAME="); ok {
			d.node = "/dev/" + strings.TrimSpace(name)
		}
	}
	return d, nil
}

// await waits until the device has size bytes. The kernel announces a new size of
// a virtio or SCSI disk.
func (d *blockDevice) await(ctx context.Context, size uint64, timeout time.Duration) error {
	var have uint64
	err := uevent.Await(ctx, "its device to grow", timeout, func() (bool, error) {
		text, err := os.ReadFile(d.sysfs + "/size")
		if err != nil {
			return false, err
		}
		sectors, err := strconv.ParseUint(strings.TrimSpace(string(text)), 10, 64)
		have = sectors * sectorSize
		return have >= size, err
	})
	if late := (*uevent.TimeoutError)(nil); errors.As(err, &late) {
		return fail(ErrUnable, "its device %s has %d bytes, not %d, and did not grow within %v", d.node, have, size, timeout)
	}
	return err
}

// fileSystem returns the file system at the root of mounted. The caller calls done.
func (d *blockDevice) fileSystem(mounted int) (fs resizable, done func(), err error) {
	if d.magic != unix.EXT4_SUPER_MAGIC && d.magic != xfsMagic {
		return nil, nil, fail(ErrUnable, "its file system is neither ext4 nor xfs")
	}
	root, err := unix.Open(procPath(mounted), unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, nil, os.NewSyscallError("open", err)
	}
	if d.magic == xfsMagic {
		return xfs{root}, func() { unix.Close(root) }, nil
	}
	return ext4{root, d.node}, func() { unix.Close(root) }, nil
}

// ext4 is a mounted ext4 file system.
type ext4 struct {
	root int
	node string
}

// size reads the superblock of the device, whose pages are those that the mounted
// file system uses.
func (f ext4) size() (block, blocks uint64, err error) {
	device, err := os.Open(f.node)
	if err != nil {
		return 0, 0, err
	}
	defer device.Close()
	sb := make([]byte, superblockSize)
	if _, err := device.ReadAt(sb, superblockAt); err != nil {
		return 0, 0, err
	}
	return parseExt4(sb)
}

// parseExt4 takes the size from a superblock (the kernel's documentation has it in
// filesystems/ext4/super.rst).
func parseExt4(sb []byte) (block, blocks uint64, err error) {
	const incompatible64 = 0x80 // INCOMPAT_64BIT
	le := binary.LittleEndian
	if le.Uint16(sb[0x38:]) != 0xef53 || le.Uint32(sb[0x18:]) > 6 {
		return 0, 0, errors.New("its device does not begin with an ext4 superblock")
	}
	blocks = uint64(le.Uint32(sb[0x4:]))
	if le.Uint32(sb[0x60:])&incompatible64 != 0 {
		blocks |= uint64(le.Uint32(sb[0x150:])) << 32
	}
	return 1024 << le.Uint32(sb[0x18:]), blocks, nil
}

func (f ext4) grow(blocks uint64) error {
	return ioctl(f.root, "EXT4_IOC_RESIZE_FS", ext4Resize, unsafe.Pointer(&blocks))
}

// xfs is a mounted xfs file system.
type xfs struct{ root int }

// geometry begins as struct xfs_fsop_geom does, and is as long.
type geometry struct {
	block           uint32
	_, _, _, _, _   uint32 // rtextsize agblocks agcount logblocks sectsize
	_, maxInodesPct uint32 // inodesize imaxpct
	blocks          uint64
	_               [256 - 40]byte
}

func (f xfs) geometry() (g geometry, err error) {
	err = ioctl(f.root, "XFS_IOC_FSGEOMETRY", xfsGeometry, unsafe.Pointer(&g))
	if err == nil && g.block == 0 {
		err = errors.New("xfs has blocks of no size")
	}
	return g, err
}

func (f xfs) size() (block, blocks uint64, err error) {
	g, err := f.geometry()
	return uint64(g.block), g.blocks, err
}

func (f xfs) grow(blocks uint64) error {
	g, err := f.geometry()
	if err != nil {
		return err
	}
	growth := struct {
		blocks       uint64
		maxInodesPct uint32
		_            uint32
	}{blocks: blocks, maxInodesPct: g.maxInodesPct}
	return ioctl(f.root, "XFS_IOC_FSGROWFSDATA", xfsGrow, unsafe.Pointer(&growth))
}

func ioctl(fd int, name string, request uintptr, argument unsafe.Pointer) error {
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), request, uintptr(argument))
	switch errno {
	case 0:
		return nil
	case unix.EROFS, unix.EBUSY, unix.EWOULDBLOCK, unix.EOPNOTSUPP, unix.EPERM:
		return fail(ErrUnable, "%s: %v", name, errno)
	}
	return os.NewSyscallError(name, errno)
}
