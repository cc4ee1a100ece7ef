package volume

import (
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

func TestVolumesThatAreNotThere(t *testing.T) {
	dir := t.TempDir()
	if err := os.Symlink("loop", dir+"/loop"); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(dir+"/file", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]error{
		"/nothing": ErrNotFound, "/file/x": ErrNotFound, "/loop": ErrInvalid, "/" + string(slices.Repeat([]byte("x"), 256)): ErrInvalid,
	} {
		if _, err := Measure(dir + path); !errors.Is(err, want) {
			t.Errorf("Measure(%.20s): %v", path, err)
		}
		if err := Resize(t.Context(), dir+path, 1<<20, time.Hour); !errors.Is(err, want) {
			t.Errorf("Resize(%.20s): %v", path, err)
		}
	}
	if err := Resize(t.Context(), dir, 1<<20, time.Hour); !errors.Is(err, ErrNotFound) {
		t.Errorf("a directory that nothing is mounted on: %v", err)
	}
}

// superblock returns the superblock of an ext4 with so many blocks of 1024 << log
// bytes.
func superblock(log, low, high, incompatible uint32) []byte {
	sb := make([]byte, 1024)
	le := binary.LittleEndian
	le.PutUint16(sb[0x38:], 0xef53)
	le.PutUint32(sb[0x18:], log)
	le.PutUint32(sb[0x4:], low)
	le.PutUint32(sb[0x150:], high)
	le.PutUint32(sb[0x60:], incompatible)
	return sb
}

func TestParseExt4(t *testing.T) {
	for name, tt := range map[string]struct {
		sb            []byte
		block, blocks uint64
	}{
		"small blocks":   {superblock(0, 32768, 7, 0x42), 1024, 32768},
		"64 bits":        {superblock(2, 5, 1, 0x2c2), 4096, 1<<32 + 5},
		"no file system": {make([]byte, 1024), 0, 0},
		"absurd blocks":  {superblock(31, 1, 0, 0), 0, 0},
	} {
		block, blocks := parseExt4(tt.sb)
		if block != tt.block || blocks != tt.blocks {
			t.Errorf("%s: %d blocks of %d bytes", name, blocks, block)
		}
	}
}

func TestMountsBelow(t *testing.T) {
	const table = `22 1 0:21 / / rw - tmpfs tmpfs rw
30 22 0:30 / /shared rw shared:1 - virtiofs kataShared rw
31 30 0:31 / /shared/a rw shared:2 - virtiofs kataShared rw
32 31 0:32 /x /shared/a/b\040c\134d rw - virtiofs kataShared rw
33 22 0:33 / /shared2/a rw - tmpfs tmpfs rw
34 22
`
	want := []string{"/shared/a", `/shared/a/b c\d`}
	if got := mountsBelow(table, "/shared"); !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestUnescape(t *testing.T) {
	for in, want := range map[string]string{
		"": "", "/a": "/a", `\040`: " ", `a\011\012b`: "a\t\nb", `a\`: `a\`, `a\04`: `a\04`, `\777x`: "\xffx",
	} {
		if got := unescape(in); got != want {
			t.Errorf("%q is %q, want %q", in, got, want)
		}
	}
}

func TestForgetStaleWithoutAnything(t *testing.T) {
	if err := ForgetStale(t.Context(), filepath.Join(t.TempDir(), "shared")); err != nil {
		t.Error(err)
	}
}
