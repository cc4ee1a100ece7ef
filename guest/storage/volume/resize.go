package volume

import (
	"context"
	"encoding/binary"
	"errors"
	"os"
	"strconv"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"kata/guest/machine/uevent"
)

// Of fs/ext4/ext4.h and fs/xfs/libxfs/xfs_fs.h.
const (
	ext4Resize  = 0x40086610 // EXT4_IOC_RESIZE_FS: blocks in total, 64 bits
	xfsGeometry = 0x8100587e // XFS_IOC_FSGEOMETRY: struct xfs_fsop_geom
	xfsGrow     = 0x4010586e // XFS_IOC_FSGROWFSDATA: struct xfs_growfs_data
	xfsMagic    = 0x58465342
)

// Resize makes the file system that is mounted at path size bytes large, rounded
// down to what the file system can have, while it is in use. Its device has to be
// large enough; if it is about to grow Resize waits for that, at most for timeout
// and until ctx ends. A file system that is larger already stays as it is and
// gets ErrInvalid, one of that size is left alone.
func Resize(ctx context.Context, path string, size uint64, timeout time.Duration) error {
	mounted, err := openMounted(path)
	if err == nil {
		var fs *fileSystem
		if fs, err = openFileSystem(mounted); err == nil {
			err = fs.resize(ctx, size, timeout)
			unix.Close(fs.root)
		}
		unix.Close(mounted)
	}
	return about("volume "+path, err)
}

// fileSystem is a mounted file system that can grow.
type fileSystem struct {
	root   int // its root directory
	device *blockDevice
	block  uint64 // the size of its blocks
	blocks uint64 // how many there are
	xfs    *geometry
}

// openFileSystem finds out what is mounted at a descriptor. The caller closes the
// root.
func openFileSystem(mounted int) (*fileSystem, error) {
	device, err := deviceOf(mounted)
	if err != nil {
		return nil, err
	}
	var stat unix.Statfs_t
	if err := unix.Fstatfs(mounted, &stat); err != nil {
		return nil, err
	}
	if stat.Type != unix.EXT4_SUPER_MAGIC && stat.Type != xfsMagic {
		return nil, fail(ErrUnable, "its file system is neither ext4 nor xfs")
	}
	root, err := unix.Open(procPath(mounted), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	f := &fileSystem{root: root, device: device}
	if stat.Type == xfsMagic {
		f.xfs = new(geometry)
		err = f.ioctl(xfsGeometry, unsafe.Pointer(f.xfs))
		f.block, f.blocks = uint64(f.xfs.block), f.xfs.blocks
	} else {
		f.block, f.blocks, err = readExt4(device.node)
	}
	if err == nil && f.block == 0 {
		err = fail(ErrUnable, "its file system has blocks of no size")
	}
	if err != nil {
		unix.Close(root)
		return nil, err
	}
	return f, nil
}

func (f *fileSystem) resize(ctx context.Context, size uint64, timeout time.Duration) error {
	want := size / f.block
	if want < f.blocks {
		return fail(ErrInvalid, decimal(size)+" bytes are less than its "+decimal(f.blocks*f.block)+", and it cannot shrink")
	}
	if want == f.blocks {
		return nil
	}
	if err := f.device.await(ctx, want*f.block, timeout); err != nil {
		return err
	}
	if f.xfs == nil {
		return f.ioctl(ext4Resize, unsafe.Pointer(&want))
	}
	growth := struct {
		blocks       uint64
		maxInodesPct uint32
		_            uint32
	}{blocks: want, maxInodesPct: f.xfs.maxInodesPct}
	return f.ioctl(xfsGrow, unsafe.Pointer(&growth))
}

func (f *fileSystem) ioctl(request uintptr, argument unsafe.Pointer) error {
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(f.root), request, uintptr(argument)); errno != 0 {
		return fail(ErrUnable, "resize: "+errno.Error()) // it is read-only, or being resized, or in trouble
	}
	return nil
}

func decimal(n uint64) string { return strconv.FormatUint(n, 10) }

// geometry begins as struct xfs_fsop_geom does, and is as long.
type geometry struct {
	block           uint32
	_, _, _, _, _   uint32 // rtextsize agblocks agcount logblocks sectsize
	_, maxInodesPct uint32 // inodesize imaxpct
	blocks          uint64
	_               [256 - 40]byte
}

// readExt4 reads the superblock of a device, whose pages are those that the
// mounted file system uses.
func readExt4(node string) (block, blocks uint64, err error) {
	device, err := os.Open(node)
	if err != nil {
		return 0, 0, err
	}
	defer device.Close()
	sb := make([]byte, 1024)
	if _, err := device.ReadAt(sb, 1024); err != nil {
		return 0, 0, err
	}
	block, blocks = parseExt4(sb)
	return block, blocks, nil
}

// parseExt4 takes the size from a superblock (the kernel's documentation has it in
// filesystems/ext4/super.rst). What is none has blocks of no size.
func parseExt4(sb []byte) (block, blocks uint64) {
	const incompatible64 = 0x80 // INCOMPAT_64BIT
	le := binary.LittleEndian
	log := le.Uint32(sb[0x18:])
	if le.Uint16(sb[0x38:]) != 0xef53 || log > 6 {
		return 0, 0
	}
	blocks = uint64(le.Uint32(sb[0x4:]))
	if le.Uint32(sb[0x60:])&incompatible64 != 0 {
		blocks |= uint64(le.Uint32(sb[0x150:])) << 32
	}
	return 1024 << log, blocks
}

// blockDevice is what a file system is on.
type blockDevice struct{ sysfs, node string }

// deviceOf returns the device of the file system that fd is in.
func deviceOf(fd int) (*blockDevice, error) {
	var stat unix.Stat_t
	if err := unix.Fstat(fd, &stat); err != nil {
		return nil, err
	}
	sysfs := "/sys/dev/block/" + decimal(uint64(unix.Major(stat.Dev))) + ":" + decimal(uint64(unix.Minor(stat.Dev)))
	text, err := os.ReadFile(sysfs + "/uevent")
	if err != nil {
		return nil, fail(ErrUnable, "its file system is on no block device")
	}
	_, name, _ := strings.Cut(string(text), "DEVNAME=")
	name, _, _ = strings.Cut(name, "\n")
	return &blockDevice{sysfs, "/dev/" + name}, nil
}

// await waits until the device has size bytes. The kernel announces a new size of
// a virtio or SCSI disk.
func (d *blockDevice) await(ctx context.Context, size uint64, timeout time.Duration) error {
	var have uint64
	err := uevent.Await(ctx, d.node, timeout, func() (bool, error) {
		text, err := os.ReadFile(d.sysfs + "/size")
		if err != nil {
			return false, err
		}
		sectors, err := strconv.ParseUint(strings.TrimSpace(string(text)), 10, 55)
		have = sectors * 512
		return have >= size, err
	})
	if late := (*uevent.TimeoutError)(nil); errors.As(err, &late) {
		return fail(ErrUnable, "its device "+d.node+" has "+decimal(have)+" bytes, not "+decimal(size)+", and did not grow within "+timeout.String())
	}
	return err
}
