package distro

import (
	"bytes"
	"compress/gzip"
	"context"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os/exec"
)

// maxKernel bounds an unpacked kernel, in bytes.
const maxKernel = 512 << 20

// Places in the header of a bzImage (Documentation/arch/x86/boot.rst).
const (
	setupSectors  = 0x1f1
	headerMagic   = 0x202
	payloadOffset = 0x248
	payloadLength = 0x24c
	headerEnd     = 0x250
)

// Vmlinux returns the ELF kernel of an image: of a bzImage what its payload holds,
// an ELF file as it is. Its PVH entry point (CONFIG_PVH) is what QEMU starts
// without a boot loader and without unpacking in the guest.
func Vmlinux(ctx context.Context, image []byte) ([]byte, error) {
	if bytes.HasPrefix(image, []byte(elf.ELFMAG)) {
		return image, checkKernel(image)
	}
	if len(image) < headerEnd || string(image[headerMagic:headerMagic+4]) != "HdrS" {
		return nil, errors.New("neither a bzImage nor an ELF kernel")
	}
	sectors := int(image[setupSectors])
	if sectors == 0 {
		sectors = 4
	}
	start := (sectors+1)*512 + int(binary.LittleEndian.Uint32(image[payloadOffset:]))
	length := int(binary.LittleEndian.Uint32(image[payloadLength:]))
	if start > len(image) || length > len(image)-start || length < 8 {
		return nil, errors.New("the bzImage's payload is beyond its end")
	}
	kernel, err := unpack(ctx, image[start:start+length])
	if err != nil {
		return nil, fmt.Errorf("unpack the bzImage's payload: %w", err)
	}
	return kernel, checkKernel(kernel)
}

// unpack unpacks a payload: compressed data, and its size in the last four bytes.
func unpack(ctx context.Context, payload []byte) ([]byte, error) {
	size := binary.LittleEndian.Uint32(payload[len(payload)-4:])
	if size > maxKernel {
		return nil, fmt.Errorf("%d bytes are too many", size)
	}
	data := payload[:len(payload)-4]
	var kernel []byte
	var err error
	switch {
	case bytes.HasPrefix(data, []byte{0x02, 0x21, 0x4c, 0x18}):
		kernel, err = unLZ4(data[4:], int(size))
	case bytes.HasPrefix(data, []byte{0x1f, 0x8b}):
		kernel, err = gunzip(data)
	case bytes.HasPrefix(data, []byte("\xfd7zXZ\x00")):
		kernel, err = filter(ctx, data, "xz", "-dc")
	case bytes.HasPrefix(data, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		kernel, err = filter(ctx, data, "zstd", "-dc")
	case bytes.HasPrefix(data, []byte{0x5d, 0, 0}):
		kernel, err = filter(ctx, data, "xz", "--format=lzma", "-dc")
	case bytes.HasPrefix(data, []byte("BZh")):
		kernel, err = filter(ctx, data, "bzip2", "-dc")
	default:
		return nil, fmt.Errorf("it begins with %x, which is no compression known here", data[:4])
	}
	if err != nil {
		return nil, err
	}
	if len(kernel) != int(size) {
		return nil, fmt.Errorf("%d bytes came out, %d should", len(kernel), size)
	}
	return kernel, nil
}

func gunzip(data []byte) ([]byte, error) {
	r, err := gzip.NewReader(bytes.NewReader(data))
	if err != nil {
		return nil, err
	}
	r.Multistream(false)
	return io.ReadAll(io.LimitReader(r, maxKernel))
}

// filter runs a program that unpacks.
func filter(ctx context.Context, data []byte, name string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Stdin = bytes.NewReader(data)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%s: %w %s", name, err, bytes.TrimSpace(stderr.Bytes()))
	}
	return out, nil
}

var errLZ4 = errors.New("corrupt LZ4 data")

// unLZ4 unpacks the legacy frames that the kernel's build writes: blocks of up to
// 8 MiB, each with its packed size before it (the LZ4 frame format's "legacy
// frame"; lib/decompress_unlz4.c). Size is that of everything.
func unLZ4(data []byte, size int) ([]byte, error) {
	const blockSize = 8 << 20
	out := make([]byte, 0, size)
	for len(data) >= 4 && len(out) < size {
		n := binary.LittleEndian.Uint32(data)
		if data = data[4:]; int(n) > len(data) {
			return nil, errLZ4
		}
		begin := len(out)
		var err error
		if out, err = lz4Block(out, data[:n], min(size, begin+blockSize)); err != nil {
			return nil, err
		}
		data = data[n:]
	}
	return out, nil
}

// lz4Block appends what a block holds, at most up to a size of out (the LZ4 block
// format).
func lz4Block(out, in []byte, limit int) ([]byte, error) {
	begin := len(out)
	// length reads the rest of a length of which four bits are known.
	length := func(n int) (int, bool) {
		if n < 15 {
			return n, true
		}
		for len(in) > 0 {
			b := in[0]
			in = in[1:]
			if n += int(b); b != 255 {
				return n, true
			}
		}
		return 0, false
	}
	for len(in) > 0 {
		token := in[0]
		in = in[1:]
		literals, ok := length(int(token >> 4))
		if !ok || literals > len(in) || len(out)+literals > limit {
			return nil, errLZ4
		}
		out, in = append(out, in[:literals]...), in[literals:]
		if len(in) == 0 {
			return out, nil // a block ends with literals
		}
		if len(in) < 2 {
			return nil, errLZ4
		}
		distance := int(binary.LittleEndian.Uint16(in))
		in = in[2:]
		match, ok := length(int(token & 15))
		if match += 4; !ok || distance == 0 || distance > len(out)-begin || len(out)+match > limit {
			return nil, errLZ4
		}
		for range match {
			out = append(out, out[len(out)-distance])
		}
	}
	return out, nil
}

// checkKernel refuses what QEMU could not start as a kernel: it wants an entry
// point by PVH (an ELF note of Xen's, number 18: include/xen/interface/elfnote.h).
func checkKernel(kernel []byte) error {
	f, err := elf.NewFile(bytes.NewReader(kernel))
	if err != nil {
		return fmt.Errorf("the kernel is no ELF file: %w", err)
	}
	if f.Machine != elf.EM_X86_64 {
		return fmt.Errorf("a kernel for %v, the guest is EM_X86_64", f.Machine)
	}
	for _, p := range f.Progs {
		if p.Type != elf.PT_NOTE {
			continue
		}
		notes := make([]byte, min(p.Filesz, 1<<20))
		if _, err := p.ReadAt(notes, 0); err != nil {
			return fmt.Errorf("read the kernel's notes: %w", err)
		}
		if hasPVH(notes) {
			return nil
		}
	}
	return errors.New("the kernel has no PVH entry point (CONFIG_PVH), by which it would be started")
}

func hasPVH(notes []byte) bool {
	const pvhEntry = 18
	for len(notes) >= 12 {
		name, size, kind := binary.LittleEndian.Uint32(notes), binary.LittleEndian.Uint32(notes[4:]), binary.LittleEndian.Uint32(notes[8:])
		notes = notes[12:]
		whole := (uint64(name)+3)&^3 + (uint64(size)+3)&^3
		if whole > uint64(len(notes)) {
			return false
		}
		if kind == pvhEntry && name == 4 && string(notes[:4]) == "Xen\x00" {
			return true
		}
		notes = notes[whole:]
	}
	return false
}
