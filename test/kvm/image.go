package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"kata/image/cache"
	"kata/image/initrd"
)

// Files of the machine's image.
const (
	rootDisk   = "root.erofs"
	kernelFile = "vmlinuz"
	initrdFile = "initrd.img"
)

// suite is the distribution's release.
const suite = "bookworm"

// packages are what the machine has installed besides the essential ones.
var packages = []string{
	"busybox-static", "containerd", "iproute2", "kmod", "linux-image-amd64", "mount", "procps",
	"qemu-system-x86", "qemu-system-common", "runc",
}

// imageVersion changes when the same inputs would give another image.
const imageVersion = "1"

// bootModules bring the machine to its root file system.
var bootModules = []string{"virtio_pci", "virtio_blk", "erofs", "overlay"}

// initScript is /init of the machine's initrd: it makes the root file system
// writable by an overlay and goes there.
const initScript = `#!/bin/busybox sh
bb=/bin/busybox
$bb mount -t proc proc /proc
$bb mount -t sysfs sysfs /sys
$bb mount -t devtmpfs dev /dev
while read -r module; do $bb insmod "$module" || echo "insmod $module failed"; done < /modules
$bb mount -t tmpfs -o mode=755,size=75% tmpfs /mnt
$bb mkdir /mnt/root /mnt/up /mnt/work /mnt/new
$bb mount -t erofs -o ro /dev/vda /mnt/root
$bb mount -t overlay -o lowerdir=/mnt/root,upperdir=/mnt/up,workdir=/mnt/work overlay /mnt/new
$bb mkdir -p /mnt/new/product
$bb mount -t erofs -o ro /dev/vdb /mnt/new/product
for d in proc sys dev; do $bb mount -o move /$d /mnt/new/$d; done
exec $bb switch_root /mnt/new /product/init
`

// machineImage returns the image of the machine from the store, made if need be.
func machineImage(ctx context.Context, store *cache.Store) (*cache.Entry, error) {
	sources, err := aptSources()
	if err != nil {
		return nil, err
	}
	inputs := map[string]string{
		"builder": imageVersion, "suite": suite, "packages": strings.Join(packages, " "),
		"init": cache.Key(map[string]string{"script": initScript, "modules": strings.Join(bootModules, " ")})[:16],
	}
	notify := func(s string) { fmt.Println(s) }
	entry, _, err := store.Make(ctx, "kvm-machine", inputs, notify, func(ctx context.Context, out, work string) error {
		root := filepath.Join(work, "root")
		if err := os.RemoveAll(root); err != nil { // of an attempt that was killed
			return err
		}
		fmt.Println("installing a machine from the distribution's packages (once, about two minutes)")
		args := []string{
			"--variant=essential", "--format=directory", "--quiet", "--include=" + strings.Join(packages, ","),
			`--dpkgopt=path-exclude=/usr/share/doc/*`, `--dpkgopt=path-exclude=/usr/share/man/*`, `--dpkgopt=path-exclude=/usr/share/locale/*`,
			suite, root,
		}
		if err := tool(ctx, "mmdebstrap", append(args, sources...)...); err != nil {
			return err
		}
		return pack(ctx, root, out)
	})
	return entry, err
}

// aptSources are the files that tell apt of this machine where packages are.
func aptSources() ([]string, error) {
	var found []string
	for _, pattern := range []string{"/etc/apt/sources.list", "/etc/apt/sources.list.d/*.sources", "/etc/apt/sources.list.d/*.list"} {
		files, err := filepath.Glob(pattern)
		if err != nil {
			return nil, err
		}
		for _, file := range files {
			if text, err := os.ReadFile(file); err == nil && bytes.Contains(text, []byte(suite)) {
				found = append(found, file)
			}
		}
	}
	if len(found) == 0 {
		return nil, fmt.Errorf("no apt source of this machine has the suite %s", suite)
	}
	return found, nil
}

// pack makes the files of the entry out of the root file system.
func pack(ctx context.Context, root, out string) error {
	kernels, err := filepath.Glob(filepath.Join(root, "boot", "vmlinuz-*"))
	if err != nil || len(kernels) != 1 {
		return fmt.Errorf("the machine has %d kernels, want one: %v", len(kernels), err)
	}
	release := strings.TrimPrefix(filepath.Base(kernels[0]), "vmlinuz-")
	if err := writeInitrd(ctx, root, release, filepath.Join(out, initrdFile)); err != nil {
		return err
	}
	if err := tool(ctx, "cp", kernels[0], filepath.Join(out, kernelFile)); err != nil {
		return err
	}
	if err := os.RemoveAll(filepath.Join(root, "boot")); err != nil {
		return err
	}
	return tool(ctx, "mkfs.erofs", "--quiet", filepath.Join(out, rootDisk), root)
}

// writeInitrd writes an initrd with busybox, the modules for the root file system
// in the order in which they are loaded, and the script that does it.
func writeInitrd(ctx context.Context, root, release, name string) error {
	busybox, err := os.ReadFile(filepath.Join(root, "bin", "busybox"))
	if err != nil {
		return err
	}
	entries := []initrd.Entry{
		initrd.CharDevice("dev/console", 0o600, 5, 1),
		initrd.File("init", 0o755, []byte(initScript)),
		initrd.File("bin/busybox", 0o755, busybox),
	}
	for _, dir := range []string{"bin", "dev", "proc", "sys", "mnt", "lib"} {
		entries = append(entries, initrd.Dir(dir, 0o755))
	}
	var order strings.Builder
	seen := make(map[string]bool)
	for _, module := range bootModules {
		list, err := exec.CommandContext(ctx, "chroot", root, "modprobe", "-S", release, "--show-depends", module).Output()
		if err != nil {
			return fmt.Errorf("ask for what module %s needs: %w", module, err)
		}
		for line := range strings.Lines(string(list)) {
			words := strings.Fields(line)
			if len(words) < 2 || words[0] != "insmod" || seen[words[1]] {
				continue
			}
			seen[words[1]] = true
			data, err := os.ReadFile(filepath.Join(root, words[1]))
			if err != nil {
				return err
			}
			at := "lib/" + filepath.Base(words[1])
			entries = append(entries, initrd.File(at, 0o644, data))
			fmt.Fprintln(&order, "/"+at)
		}
	}
	entries = append(entries, initrd.File("modules", 0o644, []byte(order.String())))
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	return errors.Join(initrd.Write(f, entries), f.Close())
}

// tool runs a program and returns what it wrote when it fails.
func tool(ctx context.Context, name string, args ...string) error {
	out, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w\n%s", name, err, out)
	}
	return nil
}
