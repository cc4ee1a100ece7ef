package vmm

import (
	"net"
	"os"
	"strings"
	"testing"
)

func TestDevicesThatNoDriverCanPlug(t *testing.T) {
	mac, file := net.HardwareAddr{2, 0, 0, 0, 0, 1}, os.Stdin
	tap := []*os.File{file}
	for _, tt := range []struct {
		name   string
		device interface{ Validate() error }
		want   string // "" when it is fine
	}{
		{"a disk", &Block{ID: "disk-1_a", File: file}, ""},
		{"a disk without a file", &Block{ID: "disk"}, "no file"},
		{"a disk without an id", &Block{File: file}, "device id"},
		{"an id that ends an option", &Block{ID: "a,b", File: file}, "device id"},
		{"an id that starts with a digit", &Block{ID: "1a", File: file}, "device id"},
		{"an id as long as they get", &Block{ID: strings.Repeat("a", 32), File: file}, ""},
		{"a longer id", &Block{ID: strings.Repeat("a", 33), File: file}, "device id"},
		{"a network device", &Network{ID: "eth0", Taps: tap, MAC: mac}, ""},
		{"a network device with vhost", &Network{ID: "eth0", Taps: tap, Vhost: tap, MAC: mac}, ""},
		{"one without a tap", &Network{ID: "eth0", MAC: mac}, "no tap"},
		{"one with half its vhost descriptors", &Network{ID: "eth0", Taps: []*os.File{file, file}, Vhost: tap, MAC: mac}, "2 taps and 1 vhost"},
		{"one without a MAC address", &Network{ID: "eth0", Taps: tap}, "no MAC address"},
		{"one with a group's MAC address", &Network{ID: "eth0", Taps: tap, MAC: net.HardwareAddr{1, 0, 0, 0, 0, 1}}, "no MAC address"},
	} {
		err := tt.device.Validate()
		if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("%s: %v, want %q", tt.name, err, tt.want)
		}
	}
}
