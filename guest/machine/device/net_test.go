package device

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// number gives the network device whose folder is dir a number.
func number(t *testing.T, f *Finder, dir, index string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(f.sys, dir, "ifindex"), []byte(index), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestNetworkDevicesAreFoundByPath(t *testing.T) {
	const root = "devices/pci0000:00/"
	f := tree(t,
		root+"0000:00:02.0/pci_bus/0000:05",
		root+"0000:00:02.0/0000:05:01.0/virtio4/net/eth9",
		root+"0000:00:03.0/net/eth3",
		root+"0000:00:04.0/virtio5/block/vda",
		root+"0000:00:06.0/net/eth6",
		"devices/virtual/net/dummy0",
	)
	number(t, f, root+"0000:00:02.0/0000:05:01.0/virtio4/net/eth9", "12\n")
	number(t, f, root+"0000:00:03.0/net/eth3", "3\n")
	number(t, f, root+"0000:00:06.0/net/eth6", "six\n")
	number(t, f, "devices/virtual/net/dummy0", "7\n")

	for text, want := range map[string]int{"02/01": 12, "03": 3} {
		if got, err := f.NetAt(t.Context(), pciPath(t, text)); err != nil || got != want {
			t.Errorf("network device at %s is %d, %v, want %d", text, got, err, want)
		}
	}
	for text, want := range map[string]int{
		"/sys/" + root + "0000:00:02.0/0000:05:01.0":                  12,
		"/" + root + "0000:00:02.0/0000:05:01.0/virtio4":              12,
		"/sys/" + root + "0000:00:02.0/0000:05:01.0/virtio4/net/eth9": 12,
		"/devices/virtual/net/dummy0":                                 7,
	} {
		dir, err := SysPath(text)
		if err != nil {
			t.Error(err)
		}
		if got, err := f.NetIn(t.Context(), dir); err != nil || got != want {
			t.Errorf("network device in %s is %d, %v, want %d", text, got, err, want)
		}
	}
	for _, text := range []string{"04", "05"} {
		got, err := f.NetAt(t.Context(), pciPath(t, text))
		if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), text) {
			t.Errorf("network device at %s, where there is none: %d, %v", text, got, err)
		}
	}
	if got, err := f.NetAt(t.Context(), pciPath(t, "06")); err == nil || !strings.Contains(err.Error(), "ifindex") {
		t.Errorf("a device with an absurd number: %d, %v", got, err)
	}
	if got, err := f.NetIn(t.Context(), "/devices/virtual/net/dummy1"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a device that is not there: %d, %v", got, err)
	}
}

func TestSysPath(t *testing.T) {
	for _, text := range []string{
		"", "/", "/sys", "/sys/", "02/01", "/dev/vda", "/sys/devices", "/sys/devices/", "/sys/devices/../kernel",
		"/devices//virtual", "/sys/kernel/debug", "/sys/sys/devices/a", "/devices/a\x00", "sys/devices/a", "/sysdevices/a",
	} {
		if dir, err := SysPath(text); err == nil {
			t.Errorf("%q is %q", text, dir)
		}
	}
}
