// Package vmm says what a virtual machine monitor must do for a pod.
//
// A driver (vmm/qemu) turns a [Spec], plain values that are checked before
// anything is started, into a [Machine]: one virtual machine that is started
// once and stopped once. Powers beyond the life cycle (hotplug, resize, pause)
// are small interfaces of their own, so that the type says what a VMM can do.
// Every driver passes the conformance suite in vmm/vmmtest.
//
// The package does not know what runs in the guest: readiness of the agent is
// the sandbox's business.
//
// Life cycle: New → Start → (running) → Stop, or the machine dies by itself.
// Done is closed when its processes are gone, whatever the reason, and Err
// says why. A machine whose Start fails has released everything.
package vmm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"kata/host/process"
)

// Machine is one virtual machine. Methods may be called concurrently.
type Machine interface {
	// Start boots the guest and returns when it executes; ctx bounds the wait.
	// On error nothing is left: no process, descriptor or file. The error
	// carries what the VMM said and the last lines of the console. A machine
	// starts once.
	Start(ctx context.Context) error

	// Stop ends the machine: by request, and with SIGKILL at ctx's deadline.
	// It returns when every process is reaped, and is idempotent; stopping a
	// machine that never started or that died is no error.
	Stop(ctx context.Context) error

	// Done is closed when the machine has ended. Of one that was never started
	// it closes at Stop.
	Done() <-chan struct{}

	// Err says, after Done, why the machine ended, with what the VMM said and
	// the last lines of the console; it is nil after a Stop that was asked for,
	// and before Done.
	Err() error

	// Pids names the processes of the machine, the VMM first; empty unless it
	// runs. They are known from the moment Start returns.
	Pids() []process.ID

	// ConsoleTail returns the last lines of the guest's console.
	ConsoleTail() string
}

// Accelerators that a Spec may name; vmm/accel chooses one.
const (
	AccelKVM = "kvm"
	AccelTCG = "tcg"
)

// Spec describes a machine. Paths are absolute.
type Spec struct {
	// ID names the machine in the VMM's process list and logs.
	ID string
	// Dir is an existing directory for run-time files of the VMM.
	Dir string

	VCPUs     int // at boot, at least 1
	MaxVCPUs  int // with hotplug; 0 means VCPUs
	MemoryMiB int // at boot
	// MaxMemoryMiB is the most with hotplug; 0 means MemoryMiB.
	MaxMemoryMiB int

	// MemoryFile, unless nil, is the guest's memory: a file of MemoryMiB, open for
	// reading and writing, which stays the caller's and is duplicated by Start.
	// MemoryPrivate makes it a private copy on write: what the guest changes
	// does not reach the file, and vhost-user back-ends that map the file do not
	// see it (vhostuser, remote memory).
	MemoryFile    *os.File
	MemoryPrivate bool
	// Restore, unless empty, is the folder of a [Snapshotter]'s snapshot, which
	// the machine goes on from instead of booting. The rest of the Spec must be
	// what it was, but for what was plugged; MemoryFile is required.
	Restore string

	Kernel string // uncompressed ELF with a PVH entry, or a bzImage
	Initrd string // at most one of Initrd and Image
	Image  string // raw root disk, attached read-only as /dev/vda

	// KernelParams are appended to the driver's own, so they win.
	KernelParams []string

	Accel string // AccelKVM or AccelTCG

	Vsock  *Vsock  // nil: no vsock device
	Shares []Share // virtio-fs devices

	// HotplugDevices is how many devices may be plugged at a time (power.go). 0 is
	// the driver's choice, which costs the boot nothing that can be measured; each
	// further place costs firmware and kernel a moment (docs/design/vmm.md).
	HotplugDevices int

	// OOMScoreAdj is the VMM's, see proc(5): that of the pod.
	OOMScoreAdj int

	// Debug makes the guest kernel talk and keeps the console in ConsoleFile.
	Debug bool
	// ConsoleFile, unless empty, receives all of the console's output.
	ConsoleFile string
}

// Vsock is a virtio-vsock device whose backend listens on a unix socket
// (vhost-user) before the machine starts. The backend knows the guest's CID.
type Vsock struct {
	Socket string
}

// Share is a virtio-fs device whose daemon listens on a unix socket before the
// machine starts.
type Share struct {
	Socket    string
	Tag       string // what the guest mounts; at most 36 bytes
	QueueSize int    // entries of the request queue; 0: 1024
}

// Validate reports the first value that no driver can serve. It looks at
// values only, not at files.
func (s *Spec) Validate() error {
	switch {
	case s.ID == "":
		return errors.New("machine has no id")
	case s.VCPUs < 1:
		return fmt.Errorf("machine %s: %d vCPUs", s.ID, s.VCPUs)
	case s.MaxVCPUs != 0 && s.MaxVCPUs < s.VCPUs:
		return fmt.Errorf("machine %s: at most %d vCPUs but %d at boot", s.ID, s.MaxVCPUs, s.VCPUs)
	case s.MemoryMiB < 1:
		return fmt.Errorf("machine %s: %d MiB of memory", s.ID, s.MemoryMiB)
	case s.MaxMemoryMiB != 0 && s.MaxMemoryMiB < s.MemoryMiB:
		return fmt.Errorf("machine %s: at most %d MiB of memory but %d at boot", s.ID, s.MaxMemoryMiB, s.MemoryMiB)
	case s.MemoryFile == nil && (s.MemoryPrivate || s.Restore != ""):
		return fmt.Errorf("machine %s: a copy or a restored machine needs its memory file", s.ID)
	case s.Kernel == "":
		return fmt.Errorf("machine %s: no kernel", s.ID)
	case s.Initrd != "" && s.Image != "":
		return fmt.Errorf("machine %s: both an initrd (%s) and an image (%s)", s.ID, s.Initrd, s.Image)
	case s.HotplugDevices < 0:
		return fmt.Errorf("machine %s: places for %d devices", s.ID, s.HotplugDevices)
	case s.OOMScoreAdj < -1000 || s.OOMScoreAdj > 1000:
		return fmt.Errorf("machine %s: oom_score_adj %d is not -1000 to 1000", s.ID, s.OOMScoreAdj)
	case s.Accel != AccelKVM && s.Accel != AccelTCG:
		return fmt.Errorf("machine %s: unknown accelerator %q", s.ID, s.Accel)
	}
	for _, path := range []string{s.Dir, s.Kernel, s.Initrd, s.Image, s.ConsoleFile, s.Restore} {
		if path != "" && !filepath.IsAbs(path) {
			return fmt.Errorf("machine %s: path %q is not absolute", s.ID, path)
		}
	}
	return s.validateDevices()
}

func (s *Spec) validateDevices() error {
	if s.Vsock != nil {
		if err := s.Vsock.Validate(); err != nil {
			return fmt.Errorf("machine %s: %w", s.ID, err)
		}
	}
	seen := map[string]bool{}
	for _, share := range s.Shares {
		if err := share.Validate(); err != nil {
			return fmt.Errorf("machine %s: %w", s.ID, err)
		}
		if seen[share.Tag] {
			return fmt.Errorf("machine %s: two shares have the tag %q", s.ID, share.Tag)
		}
		seen[share.Tag] = true
	}
	return nil
}

// Validate reports the first value that no driver can serve.
func (v *Vsock) Validate() error {
	if v.Socket == "" {
		return errors.New("vsock without a socket")
	}
	return nil
}

// Validate reports the first value that no driver can serve.
func (s *Share) Validate() error {
	const maxTag = 36 // virtio specification, 5.11.4
	switch {
	case s.Socket == "":
		return fmt.Errorf("share %q without a socket", s.Tag)
	case s.Tag == "" || len(s.Tag) > maxTag:
		return fmt.Errorf("share tag %q is not 1 to %d bytes", s.Tag, maxTag)
	case s.Tag == VsockID:
		return fmt.Errorf("share tag %q means the vsock device", s.Tag)
	case s.QueueSize < 0 || s.QueueSize > 1024 || s.QueueSize&(s.QueueSize-1) != 0:
		return fmt.Errorf("queue size %d of share %q is not a power of two up to 1024", s.QueueSize, s.Tag)
	}
	return nil
}

// Checker is a Machine that can be asked whether it still answers.
type Checker interface {
	// Check returns nil if the VMM answers within ctx and the guest runs.
	Check(ctx context.Context) error
}
