package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"kata/test/harness"
)

// productInit is the first program of the machine: it installs the product from the
// second disk, loads KVM and runs the tests.
const productInit = `#!/bin/bash
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root TERM=dumb
mount -t tmpfs -o mode=755 tmpfs /run
mount -t tmpfs -o mode=1777 tmpfs /tmp
mount -t tmpfs tmpfs /dev/shm 2>/dev/null || { mkdir -p /dev/shm; mount -t tmpfs tmpfs /dev/shm; }
mkdir -p /dev/pts; mount -t devpts -o mode=620,ptmxmode=666 devpts /dev/pts
mount -t cgroup2 cgroup2 /sys/fs/cgroup
echo "+cpu +memory +pids +cpuset +io" > /sys/fs/cgroup/cgroup.subtree_control
ip link set lo up
for m in kvm_amd overlay fuse erofs tun; do modprobe $m || echo "modprobe $m failed"; done
cp -a /product/install/. /
cd /product/repo/test/e2e
echo "machine: $(uname -r), $(ls /sys/module | grep -E '^kvm' | tr '\n' ' ')$(ls -l /dev/kvm)"
./e2e.test -test.v $(cat /product/flags)
echo; echo "kata-kvm-exit-status: $?"
sync; echo o > /proc/sysrq-trigger; sleep 60
`

// exitLine begins the line that tells the exit status of the tests.
const exitLine = "kata-kvm-exit-status: "

// productImage installs the product and compiles the end-to-end tests into dir, and
// makes an image of it.
func productImage(ctx context.Context, repo harness.Repo, dir, image string, flags []string) error {
	install, tests := filepath.Join(dir, "install"), filepath.Join(dir, "repo", "test", "e2e")
	for _, d := range []string{install, tests, filepath.Join(dir, "repo", "build")} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return err
		}
	}
	steps := [][]string{
		{"make", "-s", "-C", repo.Root(), "install", "DESTDIR=" + install},
		{"cp", "-r", repo.Bin(), filepath.Join(dir, "repo", "bin")},
		{"cp", "-r", filepath.Join(repo.Root(), "build", "guest"), filepath.Join(dir, "repo", "build", "guest")},
		{"cp", filepath.Join(repo.Root(), "go.mod"), filepath.Join(dir, "repo", "go.mod")},
		{"go", "test", "-c", "-tags", "no_grpc,e2e,kvm", "-o", filepath.Join(tests, "e2e.test"), "kata/test/e2e"},
	}
	for _, step := range steps {
		if err := tool(ctx, step[0], step[1:]...); err != nil {
			return err
		}
	}
	for name, text := range map[string]string{"init": productInit, "flags": strings.Join(flags, "\n")} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o755); err != nil {
			return fmt.Errorf("write %s: %w", name, err)
		}
	}
	return tool(ctx, "mkfs.erofs", "--quiet", image, dir)
}
