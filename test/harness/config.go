package harness

import (
	"fmt"
	"path/filepath"
	"strings"
)

// containerdConfig renders the daemon's configuration: everything below dir,
// no CRI, errors and events logged.
func containerdConfig(dir string, version int) string {
	// The CRI plugins want CNI and a network; the snapshotters probe devices.
	disabled := []string{
		"io.containerd.grpc.v1.cri",
		"io.containerd.snapshotter.v1.aufs",
		"io.containerd.snapshotter.v1.btrfs",
		"io.containerd.snapshotter.v1.devmapper",
		"io.containerd.snapshotter.v1.zfs",
	}
	if version >= 3 {
		disabled = []string{
			"io.containerd.cri.v1.images",
			"io.containerd.cri.v1.runtime",
			"io.containerd.grpc.v1.cri",
			"io.containerd.nri.v1.nri",
		}
	}
	var b strings.Builder
	fmt.Fprintf(&b, "version = %d\n", version)
	fmt.Fprintf(&b, "root = %q\nstate = %q\n", filepath.Join(dir, "root"), filepath.Join(dir, "state"))
	fmt.Fprintf(&b, "disabled_plugins = [\"%s\"]\n", strings.Join(disabled, `", "`))
	socket := filepath.Join(dir, "c.sock")
	if version >= 3 {
		// containerd 2.3 made the servers plugins; the old tables still count.
		fmt.Fprintf(&b, "[plugins.\"io.containerd.internal.v1.opt\"]\npath = %q\n", filepath.Join(dir, "opt"))
		fmt.Fprintf(&b, "[grpc]\naddress = %q\n[ttrpc]\naddress = %q\n", socket, socket+".ttrpc")
		return b.String()
	}
	fmt.Fprintf(&b, "[grpc]\naddress = %q\n[ttrpc]\naddress = %q\n", socket, socket+".ttrpc")
	fmt.Fprintf(&b, "[debug]\nlevel = \"info\"\n")
	fmt.Fprintf(&b, "[plugins.\"io.containerd.internal.v1.opt\"]\npath = %q\n", filepath.Join(dir, "opt"))
	return b.String()
}
