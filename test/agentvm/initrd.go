package agentvm

import (
	"errors"
	"os"
	"path/filepath"
	"strings"

	"kata/api"
	"kata/image/initrd"
	"kata/test/harness"
)

// Rootfs is where the guest has a root file system with busybox, read-only.
const Rootfs = "/rootfs"

// writeInitrd writes the guest's image with an agent, its helpers, the root file
// system and more files, and an archive of kernel modules unless that is "".
func writeInitrd(path, agent, modules string, o Options) error {
	binary, err := os.ReadFile(agent)
	if err != nil {
		return err
	}
	image, err := harness.Busybox("")
	if err != nil {
		return err
	}
	root := strings.TrimPrefix(Rootfs, "/") + "/"
	entries := initrd.Guest(binary)
	if !o.NoHelpers {
		repo, err := harness.Repository()
		if err != nil {
			return err
		}
		iptables, err := os.ReadFile(filepath.Join(repo.Bin(), "kata-guest-iptables"))
		if err != nil {
			return err
		}
		entries = append(entries, initrd.Helpers(binary, map[string][]byte{api.HelperIPTables: iptables})...)
	}
	entries = append(entries, initrd.Dir(strings.TrimSuffix(root, "/"), 0o755))
	entries = append(entries, o.Files...)
	for _, f := range image.Files {
		name := root + strings.TrimSuffix(f.Name, "/")
		switch {
		case strings.HasSuffix(f.Name, "/"):
			entries = append(entries, initrd.Dir(name, uint32(f.Mode)))
		case f.Link != "":
			entries = append(entries, initrd.Link(name, f.Link))
		default:
			entries = append(entries, initrd.File(name, uint32(f.Mode), f.Data))
		}
	}
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	err = initrd.Write(file, entries)
	if err == nil && modules != "" {
		var more []byte
		if more, err = os.ReadFile(modules); err == nil {
			_, err = file.Write(more)
		}
	}
	return errors.Join(err, file.Close())
}
