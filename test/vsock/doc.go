// Package vsock holds the tests and benchmarks of host/vsock against a real
// driver: QEMU under TCG boots a Linux kernel with a guest program of its own
// (folder guest) as the only file. They need the build tag vm, QEMU, and a PVH
// kernel: build/guest/vmlinux of this repository or the file that
// KATA_TEST_KERNEL names. Without a kernel they fail.
package vsock
