package harness

import (
	"context"
	"fmt"
	"io"
	"path/filepath"

	"kata/api"
	"kata/image/cache"
	"kata/image/distro"
	"kata/image/initrd"
	"kata/image/kernel"
)

// PackageGuest returns the distribution's kernel and an initrd with its modules,
// from the user's cache or, the first time, from the distribution's mirror. Modules
// is the archive of the latter.
func PackageGuest(ctx context.Context, repo Repo, log io.Writer) (vmlinux, image, modules string, err error) {
	store, err := cache.Open("")
	if err != nil {
		return "", "", "", err
	}
	k, _, err := distro.Build(ctx, store, distro.Options{Log: log})
	if err != nil {
		return "", "", "", fmt.Errorf("the distribution's kernel: %w", err)
	}
	modules = k.Path(distro.Modules)
	i, _, err := initrd.Build(ctx, store, initrd.Source{
		Agent: filepath.Join(repo.Bin(), "kata-agent"), Modules: modules,
		Helpers: map[string]string{api.HelperIPTables: filepath.Join(repo.Bin(), "kata-guest-iptables")},
	}, func(s string) { fmt.Fprintln(log, s) })
	if err != nil {
		return "", "", "", err
	}
	return k.Path(kernel.Vmlinux), i.Path(initrd.Image), modules, nil
}
