package qemu

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"kata/host/process"
	"kata/host/vmm"
)

// hostFacts is what the command line depends on besides the specification.
type hostFacts struct {
	firmware         string // "" for QEMU's default
	tscKHz           int    // 0 when unknown
	imagePartitioned bool   // the root file system is in the first partition
	oneThread        bool   // TCG must not run vCPUs in parallel
}

// preflight checks, before anything is started, that everything the machine
// needs is there, and gathers the facts.
func preflight(spec *vmm.Spec, cfg *Config, spawner *process.Spawner) (binary string, facts hostFacts, err error) {
	binary, err = exec.LookPath(cfg.Path)
	if err != nil {
		return "", facts, fmt.Errorf("find QEMU: %w", err)
	}
	if info, err := os.Stat(spec.Dir); err != nil {
		return "", facts, fmt.Errorf("machine directory: %w", err)
	} else if !info.IsDir() {
		return "", facts, fmt.Errorf("machine directory %s: %w", spec.Dir, unix.ENOTDIR)
	}
	if spec.Accel == vmm.AccelKVM {
		if err := checkKVM(); err != nil {
			return "", facts, err
		}
	}
	if err := checkKernel(spec.Kernel); err != nil {
		return "", facts, err
	}
	if spec.Initrd != "" {
		if err := checkReadable("guest initrd", spec.Initrd); err != nil {
			return "", facts, err
		}
	}
	if spec.Image != "" {
		if facts.imagePartitioned, err = readPartitioned(spec.Image); err != nil {
			return "", facts, err
		}
	}
	facts.firmware = firstExisting(cfg.Firmware)
	if spec.Accel == vmm.AccelTCG {
		facts.tscKHz = hostTSC()
		facts.oneThread = needsOneThread(spec, binary, spawner)
	}
	return binary, facts, nil
}

func checkKVM() error {
	device, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("accelerator kvm: %w", err)
	}
	return device.Close()
}

// checkKernel reports a file that QEMU would take for an old kernel, or for
// none, and say so without naming it.
func checkKernel(path string) error {
	file, err := openRegular("guest kernel", path)
	if err != nil {
		return err
	}
	defer file.Close()
	if err := checkMode("guest kernel", file); err != nil {
		return err
	}
	const magicAt = 0x202 // Documentation/arch/x86/boot.rst, header
	head := make([]byte, magicAt+4)
	n, err := io.ReadFull(file, head)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("guest kernel: %w", err)
	}
	head = head[:n]
	if bytes.HasPrefix(head, []byte("\x7fELF")) || n == magicAt+4 && string(head[magicAt:]) == "HdrS" {
		return nil
	}
	return fmt.Errorf("guest kernel: %s is neither an ELF kernel nor a bzImage", path)
}

// checkReadable opens a file as QEMU will: existence alone would say nothing
// about permission.
func checkReadable(what, path string) error {
	file, err := openRegular(what, path)
	if err != nil {
		return err
	}
	defer file.Close()
	return checkMode(what, file)
}

func openRegular(what, path string) (*os.File, error) {
	// Non-blocking, for a fifo would hang the open.
	file, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	info, err := file.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is not a regular file", path)
	}
	if err == nil && info.Size() == 0 {
		err = fmt.Errorf("%s is empty", path)
	}
	if err != nil {
		file.Close()
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	return file, nil
}

// checkMode reports a file that QEMU opens anew and may not read.
func checkMode(what string, file *os.File) error {
	var stat unix.Stat_t
	if err := unix.Fstat(int(file.Fd()), &stat); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	if !readableWithoutPrivileges(stat.Uid, stat.Gid, stat.Mode) {
		return fmt.Errorf("%s: QEMU, which runs without privileges, may not read %s, of user %d with mode %04o", what, file.Name(), stat.Uid, stat.Mode&0o7777)
	}
	return nil
}

// readableWithoutPrivileges reports whether this process's user may read a file
// without CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH, which QEMU has not. Folders
// on the way do not matter: QEMU gets a descriptor.
func readableWithoutPrivileges(uid, gid, mode uint32) bool {
	switch {
	case uid == uint32(os.Geteuid()):
		return mode&0o400 != 0
	case gid == uint32(os.Getegid()):
		return mode&0o040 != 0
	}
	return mode&0o004 != 0
}

// readPartitioned reports whether an image has a partition table (as
// upstream's images have) rather than a file system from its first byte.
func readPartitioned(path string) (bool, error) {
	file, err := openRegular("guest image", path)
	if err != nil {
		return false, err
	}
	defer file.Close()
	const (
		sector         = 512
		firstEntryType = 446 + 4 // partition type byte of the master boot record's first entry
	)
	head := make([]byte, sector)
	if _, err := io.ReadFull(file, head); errors.Is(err, io.ErrUnexpectedEOF) {
		return false, fmt.Errorf("guest image: %s is shorter than a sector", path)
	} else if err != nil {
		return false, fmt.Errorf("guest image: %w", err)
	}
	return head[510] == 0x55 && head[511] == 0xaa && head[firstEntryType] != 0, nil
}

func firstExisting(paths []string) string {
	for _, path := range paths {
		if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() {
			return path
		}
	}
	return ""
}

// hostTSC returns the rate of the host's TSC in kHz, or 0 when the host does
// not say.
func hostTSC() int {
	raw, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return 0
	}
	return parseTSC(raw)
}

// parseTSC takes the rate from bogomips, which on x86 is twice the TSC's MHz;
// "cpu MHz" is the momentary clock of the core.
func parseTSC(cpuinfo []byte) int {
	lines := bufio.NewScanner(bytes.NewReader(cpuinfo))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		key, value, ok := strings.Cut(lines.Text(), ":")
		if !ok || strings.TrimSpace(key) != "bogomips" {
			continue
		}
		bogomips, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
		const slowest, fastest = 200, 40000                              // 100 MHz to 20 GHz
		if err != nil || !(bogomips >= slowest && bogomips <= fastest) { // so that NaN fails
			return 0
		}
		return int(bogomips * 1000 / 2)
	}
	return 0
}

// needsOneThread reports whether TCG must run the vCPUs in turn. Before QEMU 8.1
// a vCPU may go on with a stale translation of code that another one is
// patching, and a guest kernel patches itself: it panics on a stray int3, here
// in one of 15 to 100 boots with two vCPUs (fixed by QEMU's commit
// deba78709ae8, "accel/tcg: Always lock pages before translation"). A machine
// that starts with one vCPU and may get more is not worth the question for the
// version.
func needsOneThread(spec *vmm.Spec, binary string, spawner *process.Spawner) bool {
	if max(spec.VCPUs, spec.MaxVCPUs) == 1 {
		return false
	}
	return spec.VCPUs == 1 || !translatesInParallel(binary, spawner)
}

// translatesInParallel reports whether this QEMU has the fix.
func translatesInParallel(binary string, spawner *process.Spawner) bool {
	ctx, cancel := context.WithTimeout(context.Background(), versionWait)
	defer cancel()
	var out bytes.Buffer
	cmd := exec.CommandContext(ctx, binary, "--version")
	cmd.Stdout = &out
	if spawner.Start(cmd) != nil || cmd.Wait() != nil {
		return false
	}
	return versionAtLeast(out.String(), 8, 1)
}

// versionWait bounds the question for QEMU's version, which takes some 20 ms.
const versionWait = 5 * time.Second

// versionAtLeast reads the first line of qemu --version.
func versionAtLeast(text string, major, minor int) bool {
	_, number, ok := strings.Cut(text, "version ")
	if !ok {
		return false
	}
	var gotMajor, gotMinor int
	if _, err := fmt.Sscanf(number, "%d.%d", &gotMajor, &gotMinor); err != nil {
		return false
	}
	return gotMajor > major || gotMajor == major && gotMinor >= minor
}
