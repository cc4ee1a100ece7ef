package device

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestParsePCIPath(t *testing.T) {
	for text, want := range map[string]string{
		"02":                "02",
		"2":                 "02",
		"02/01":             "02/01",
		"02.0/01.3":         "02/01.3",
		"1f/1F/00/0a/0b.7":  "1f/1f/00/0a/0b.7",
		"20/00/01":          "20/00/01",
		"ff/02.1/01":        "ff/02.1/01",
		"1f/00/01":          "1f/00/01",
		"00/00/00/00/00/00": "00/00/00/00/00/00",
	} {
		p, err := ParsePCIPath(text)
		if err != nil || p.String() != want {
			t.Errorf("%q is %v, %v, want %s", text, p, err, want)
		}
	}
	for _, text := range []string{
		"", "/", "02/", "/02", "02//01", "20", "20/01", "0g", "02.8", "02.", "02.1.1", "-1", "+1", "002", "0x2",
		"02/ 01", "02 ", "20/20/01", "0000:00:02.0", "02/..", strings.Repeat("01/", 300) + "01",
	} {
		if p, err := ParsePCIPath(text); err == nil {
			t.Errorf("%q is %v", text, p)
		}
	}
}

func FuzzParsePCIPath(f *testing.F) {
	f.Add("02/01")
	f.Add("20/00/1f.7")
	f.Fuzz(func(t *testing.T, text string) {
		p, err := ParsePCIPath(text)
		if err != nil {
			return
		}
		again, err := ParsePCIPath(p.String())
		if err != nil || again.String() != p.String() {
			t.Errorf("%q is %s, which is %s, %v", text, p, again, err)
		}
	})
}

func TestNewPCIPath(t *testing.T) {
	if p, err := NewPCIPath(2, 1, 31); err != nil || p.String() != "02/01/1f" {
		t.Errorf("%v, %v", p, err)
	}
	for _, slots := range [][]uint32{nil, {32}, {0, 1 << 31}, make([]uint32, 300)} {
		if p, err := NewPCIPath(slots...); err == nil {
			t.Errorf("%d slots are %v", len(slots), p)
		}
	}
}

func TestParsePCIAddress(t *testing.T) {
	for text, want := range map[string]string{
		"0000:00:02.0": "0000:00:02.0", "00:1F.7": "0000:00:1f.7", "abcd:ef:00.1": "abcd:ef:00.1", "10000:e1:00.0": "10000:e1:00.0",
	} {
		if got, err := ParsePCIAddress(text); err != nil || got != want {
			t.Errorf("%q is %q, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "02.0", "0000:00:02", "0000:00:20.0", "0000:00:02.8", "0:0:0.0", "0000:00:02.0/..", "0000:00:2.0", ":::"} {
		if got, err := ParsePCIAddress(text); err == nil {
			t.Errorf("%q is %q", text, got)
		}
	}
}

func TestParseSCSIAddress(t *testing.T) {
	if a, err := ParseSCSIAddress("3:255"); err != nil || a != (SCSIAddress{3, 255}) || a.String() != "3:255" {
		t.Errorf("%v, %v", a, err)
	}
	for _, text := range []string{"", "1", ":", "1:", ":1", "1:2:3", "a:1", "-1:0", "1:-1", "65536:0", "0:4294967296"} {
		if a, err := ParseSCSIAddress(text); err == nil {
			t.Errorf("%q is %v", text, a)
		}
	}
}

// tree makes a /sys of the folders given, and returns a finder that looks in it
// and does not wait.
func tree(t *testing.T, dirs ...string) *Finder {
	t.Helper()
	root := t.TempDir()
	for _, dir := range dirs {
		if err := os.MkdirAll(filepath.Join(root, "sys", dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return &Finder{sys: filepath.Join(root, "sys"), dev: filepath.Join(root, "dev")}
}

func pciPath(t *testing.T, text string) PCIPath {
	t.Helper()
	p, err := ParsePCIPath(text)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestPathsAreFollowedThroughBridges(t *testing.T) {
	const root = "devices/pci0000:00/"
	f := tree(t,
		root+"0000:00:02.0/pci_bus/0000:05",
		root+"0000:00:02.0/0000:05:01.0/pci_bus/0000:07",
		root+"0000:00:02.0/0000:05:01.0/0000:07:00.3",
		root+"0000:00:03.0",
		"devices/pci0000:40/0000:40:00.0/pci_bus/0000:41",
		"devices/pci0000:40/0000:40:00.0/0000:41:01.0",
	)
	for text, want := range map[string]string{
		"02": "0000:00:02.0", "02/01": "0000:05:01.0", "02/01/00.3": "0000:07:00.3", "40/00/01": "0000:41:01.0",
	} {
		if got, err := f.PCI(t.Context(), pciPath(t, text)); err != nil || got != want {
			t.Errorf("PCI path %s is %q, %v, want %s", text, got, err, want)
		}
	}
	for _, text := range []string{"04", "02/02", "02/01/00", "03/00", "20/00/01"} {
		got, err := f.PCI(t.Context(), pciPath(t, text))
		if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), text) {
			t.Errorf("PCI path %s is %q, %v", text, got, err)
		}
	}
}

func TestAPathThroughWhatIsNoBridgeFailsAtOnce(t *testing.T) {
	f := tree(t, "devices/pci0000:00/0000:00:03.0")
	if err := os.WriteFile(filepath.Join(f.sys, "devices/pci0000:00/0000:00:03.0/class"), []byte("0x010000\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if got, err := f.PCI(t.Context(), pciPath(t, "03/00")); err == nil || !strings.Contains(err.Error(), "0000:00:03.0 is not a bridge") {
		t.Errorf("%q, %v", got, err)
	}
}

func TestABridgeWithTwoBusesIsRefused(t *testing.T) {
	f := tree(t, "devices/pci0000:00/0000:00:03.0/pci_bus/0000:01", "devices/pci0000:00/0000:00:03.0/pci_bus/0000:02")
	if got, err := f.PCI(t.Context(), pciPath(t, "03/00")); err == nil || !strings.Contains(err.Error(), "0000:01, 0000:02") {
		t.Errorf("%q, %v", got, err)
	}
}

func TestBlockNamedTakesDevicesOnly(t *testing.T) {
	f := NewFinder(0)
	for _, node := range []string{"", "sda", "/dev", "/dev/", "/dev/../etc/passwd", "/etc/passwd", "/dev/./sda", "/dev/a\x00b"} {
		if b, err := f.BlockNamed(t.Context(), node); err == nil || errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%q is %+v, %v", node, b, err)
		}
	}
	if b, err := f.BlockNamed(t.Context(), "/dev/null"); err == nil || !strings.Contains(err.Error(), "not a block device") {
		t.Errorf("/dev/null is %+v, %v", b, err)
	}
	if b, err := f.BlockNamed(t.Context(), "/dev/nonexistent"); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "/dev/nonexistent") {
		t.Errorf("/dev/nonexistent is %+v, %v", b, err)
	}
}

func TestSCSIHostsAreScannedOnceEach(t *testing.T) {
	f := tree(t, "class/scsi_host/host0", "class/scsi_host/host3", "bus/scsi/devices")
	for _, host := range []string{"host0", "host3"} {
		if err := os.WriteFile(filepath.Join(f.sys, "class/scsi_host", host, "scan"), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if b, err := f.SCSI(t.Context(), SCSIAddress{1, 7}); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "SCSI disk 1:7") {
		t.Errorf("%+v, %v", b, err)
	}
	for _, host := range []string{"host0", "host3"} {
		got, err := os.ReadFile(filepath.Join(f.sys, "class/scsi_host", host, "scan"))
		if err != nil || string(got) != "0 1 7" {
			t.Errorf("%s was told %q, %v", host, got, err)
		}
	}
}
