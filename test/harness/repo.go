package harness

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Repo is the checked-out repository with its build outputs.
type Repo struct{ root string }

// Repository finds the repository from the working directory upwards.
func Repository() (Repo, error) {
	dir, err := os.Getwd()
	if err != nil {
		return Repo{}, err
	}
	for ; ; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return Repo{dir}, nil
		}
		if dir == filepath.Dir(dir) {
			return Repo{}, fmt.Errorf("find the repository: no go.mod in the working directory or above")
		}
	}
}

// Root is the repository's top directory.
func (r Repo) Root() string { return r.root }

// Bin is where `make build` puts the binaries.
func (r Repo) Bin() string { return filepath.Join(r.root, "bin") }

// Kernel is the guest kernel that `make guest` puts out.
func (r Repo) Kernel() string { return filepath.Join(r.root, "build", "guest", "vmlinux") }

// Initrd is the guest image that `make guest` puts out.
func (r Repo) Initrd() string { return filepath.Join(r.root, "build", "guest", "kata-initrd.img") }

// KataConfig returns a configuration.toml for the guest built in the
// repository. Settings, written as TOML values, change or add keys of
// [hypervisor.qemu].
func (r Repo) KataConfig(settings map[string]string) string {
	keys := map[string]string{
		"kernel": strconv.Quote(r.Kernel()),
		"initrd": strconv.Quote(r.Initrd()),
	}
	maps.Copy(keys, settings)
	var b strings.Builder
	b.WriteString("[hypervisor.qemu]\n")
	for _, key := range slices.Sorted(maps.Keys(keys)) {
		fmt.Fprintf(&b, "%s = %s\n", key, keys[key])
	}
	return b.String()
}
