package agentvm

import (
	"errors"
	"os"
	"strings"

	"kata/image/initrd"
	"kata/test/harness"
)

// Rootfs is where the guest has a root file system with busybox, read-only.
const Rootfs = "/rootfs"

// writeInitrd writes the guest's image with an agent, the root file system and
// more files.
func writeInitrd(path, agent string, more []initrd.Entry) error {
	binary, err := os.ReadFile(agent)
	if err != nil {
		return err
	}
	image, err := harness.Busybox("")
	if err != nil {
		return err
	}
	root := strings.TrimPrefix(Rootfs, "/") + "/"
	entries := append(initrd.Guest(binary), initrd.Dir(strings.TrimSuffix(root, "/"), 0o755))
	entries = append(entries, more...)
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
	return errors.Join(initrd.Write(file, entries), file.Close())
}
