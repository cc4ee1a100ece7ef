package distro

import (
	"bytes"
	"compress/gzip"
	"debug/elf"
	"encoding/binary"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// object returns an ELF file with a section and, unless it is "", that as a segment
// of notes.
func object(kind elf.Type, section string, data []byte, segment bool) []byte {
	const headerSize, programSize, sectionSize = 64, 56, 64
	names := "\x00" + section + "\x00.shstrtab\x00"
	at := uint64(headerSize + programSize)
	var out bytes.Buffer
	put := func(v any) { _ = binary.Write(&out, binary.LittleEndian, v) }
	h := elf.Header64{
		Type: uint16(kind), Machine: uint16(elf.EM_X86_64), Version: 1, Ehsize: headerSize, Phentsize: programSize,
		Phoff: headerSize, Shoff: at + uint64(len(data)+len(names)), Shentsize: sectionSize, Shnum: 3, Shstrndx: 2,
	}
	copy(h.Ident[:], elf.ELFMAG+"\x02\x01\x01")
	if segment {
		h.Phnum = 1
	}
	put(h)
	put(elf.Prog64{Type: uint32(elf.PT_NOTE), Off: at, Filesz: uint64(len(data)), Memsz: uint64(len(data))})
	out.Write(data)
	out.WriteString(names)
	put(elf.Section64{})
	put(elf.Section64{Name: 1, Type: uint32(elf.SHT_PROGBITS), Off: at, Size: uint64(len(data))})
	put(elf.Section64{Name: uint32(2 + len(section)), Type: uint32(elf.SHT_STRTAB), Off: at + uint64(len(data)), Size: uint64(len(names))})
	return out.Bytes()
}

// fakeKernel returns an ELF kernel with a PVH entry point or without.
func fakeKernel(pvh bool) []byte {
	note := []byte("\x04\x00\x00\x00\x04\x00\x00\x00\x12\x00\x00\x00Xen\x00\x00\x00\x00\x01")
	if !pvh {
		note[8] = 6
	}
	return append(object(elf.ET_EXEC, ".notes", note, true), bytes.Repeat([]byte("kernel code "), 5000)...)
}

// fakeBzImage returns a bzImage with a payload.
func fakeBzImage(payload []byte, size int) []byte {
	image := make([]byte, 3*512)
	image[setupSectors] = 2
	copy(image[headerMagic:], "HdrS")
	binary.LittleEndian.PutUint32(image[payloadOffset:], 16)
	binary.LittleEndian.PutUint32(image[payloadLength:], uint32(len(payload)+4))
	image = append(append(image, make([]byte, 16)...), payload...)
	return append(binary.LittleEndian.AppendUint32(image, uint32(size)), "after the payload"...)
}

// fakeModule returns a signed module.
func fakeModule(info ...string) []byte {
	m := object(elf.ET_REL, ".modinfo", []byte(strings.Join(info, "\x00")+"\x00"), false)
	return append(m, "signature\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x09~Module signature appended~\n"...)
}

func pack(t *testing.T, data []byte, args ...string) []byte {
	t.Helper()
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Stdin = bytes.NewReader(data)
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %v", args, err)
	}
	return out
}

func gzipped(t *testing.T, data []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	_, err := w.Write(data)
	if err != nil || w.Close() != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// fakeTree writes modules and returns their folder.
func fakeTree(t *testing.T, dir string, modules map[string][]byte) string {
	t.Helper()
	for name, data := range modules {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// aDistribution is a tree that has what every guest needs.
func aDistribution(t *testing.T, dir string) string {
	t.Helper()
	return fakeTree(t, dir, map[string][]byte{
		"modules.builtin":                      []byte("kernel/fs/ext4/ext4.ko\nkernel/crypto/crc32c_generic.ko\n"),
		"modules.builtin.modinfo":              []byte("crc32c_generic.alias=crypto-crc32c\x00crc32c_generic.alias=crc32c\x00"),
		"kernel/virtio_ring.ko":                fakeModule("license=GPL", "depends="),
		"kernel/virtio.ko.xz":                  pack(t, fakeModule("depends=virtio_ring"), "xz", "-c"),
		"kernel/virtio_pci.ko":                 fakeModule("depends=virtio,virtio_ring"),
		"kernel/vsock.ko.gz":                   gzipped(t, fakeModule("depends=")),
		"kernel/vmw-vsock-virtio-transport.ko": fakeModule("depends=vsock,virtio-ring,ext4", "alias=virtio:d00000013v*"),
		"kernel/virtiofs.ko":                   fakeModule("depends=fuse"),
		"kernel/fuse.ko":                       fakeModule("depends="),
		"kernel/overlay.ko":                    fakeModule("depends="),
		"kernel/dummy.ko":                      fakeModule("depends=libcrc32c"),
		"kernel/libcrc32c.ko":                  fakeModule("depends=", "softdep=pre: crc32c post: later"),
		"kernel/floppy.ko":                     fakeModule("depends=", "softdep=pre: disk0 none"),
		"kernel/disk_generic.ko":               fakeModule("depends=", "alias=disk0"),
		"kernel/a_disk.ko":                     fakeModule("depends=", "alias=disk0"),
	})
}
