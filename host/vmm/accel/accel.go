// Package accel chooses what executes guest code: KVM when the machine has a
// KVM that runs guests at native speed, QEMU's translator (TCG) otherwise.
//
// Opening /dev/kvm proves nothing: there are modules behind it that interpret
// guest kernel code instruction by instruction, on which a stock guest makes
// no progress. So the choice is probed: the module must drive hardware
// virtualisation, a VM must come into being, and a guest of a few instructions
// must run through a loop in native time. The first test that does not pass
// ends the probe: a device whose module is unfit is opened, to tell a lack of
// permission, and not used.
//
// It keeps no state: a verdict is good for the pod that asked.
package accel

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"kata/host/vmm"
)

// What a configuration may ask for, besides the names of vmm.
const Auto = "auto"

// Verdict is the accelerator to use, and why it and not the other.
type Verdict struct {
	Name   string // vmm.AccelKVM or vmm.AccelTCG
	Reason string // one line for the operator
}

// Prober holds where to look. The zero value looks at this machine.
type Prober struct {
	SysModule string // default /sys/module
	Device    string // default /dev/kvm
	// Run executes the probe guest on the opened device and returns how long
	// its loop took. Default: the real one.
	Run func(ctx context.Context, device *os.File) (time.Duration, error)
}

// Probe chooses for this machine; see [Prober.Probe].
func Probe(ctx context.Context, want string) (Verdict, error) {
	return (&Prober{}).Probe(ctx, want)
}

// Probe chooses the accelerator. want is auto, kvm or tcg: auto falls back to
// TCG and says why, kvm that cannot be used is an error that says why. The
// empty string means auto. It takes a few milliseconds, a second at most.
func (p *Prober) Probe(ctx context.Context, want string) (Verdict, error) {
	switch want {
	case vmm.AccelTCG:
		return Verdict{vmm.AccelTCG, "the configuration asks for it"}, nil
	case Auto, "", vmm.AccelKVM:
	default:
		return Verdict{}, fmt.Errorf("unknown accelerator %q: use auto, kvm or tcg", want)
	}
	reason, err := p.tryKVM(ctx)
	switch {
	case ctx.Err() != nil:
		return Verdict{}, fmt.Errorf("probe kvm: %w", context.Cause(ctx))
	case err == nil:
		return Verdict{vmm.AccelKVM, reason}, nil
	case want == vmm.AccelKVM:
		return Verdict{}, fmt.Errorf("accelerator kvm: %w", err)
	}
	return Verdict{vmm.AccelTCG, "no usable KVM: " + err.Error()}, nil
}

// tryKVM returns why KVM is fit, or an error that says why not.
func (p *Prober) tryKVM(ctx context.Context) (string, error) {
	path := orDefault(p.Device, "/dev/kvm")
	device, openErr := os.OpenFile(path, os.O_RDWR, 0)
	if errors.Is(openErr, fs.ErrPermission) {
		return "", fmt.Errorf("no permission on %s: %w", path, openErr)
	}
	if openErr == nil {
		defer device.Close()
	}
	// A device that is not there is the lack of a module.
	module, err := p.hardwareModule()
	if err != nil {
		return "", err
	}
	if openErr != nil {
		return "", openErr
	}
	run := p.Run
	if run == nil {
		run = runProbeGuest
	}
	took, err := run(ctx, device)
	if err != nil {
		return "", fmt.Errorf("%s: %w", path, err)
	}
	return fmt.Sprintf("%s runs guest code at native speed (probe took %s)", module, took.Round(time.Microsecond)), nil
}

// hardwareModule names the loaded module that gives KVM the processor's own
// virtualisation.
func (p *Prober) hardwareModule() (string, error) {
	root := orDefault(p.SysModule, "/sys/module")
	loaded := func(module string) bool {
		_, err := os.Stat(filepath.Join(root, module))
		return err == nil
	}
	if loaded("kvm_pvm") {
		return "", errors.New("the module kvm_pvm emulates guest kernel code and cannot run stock guests")
	}
	for _, module := range []string{"kvm_intel", "kvm_amd"} {
		if loaded(module) {
			return module, nil
		}
	}
	return "", errors.New("neither kvm_intel nor kvm_amd is loaded")
}

func orDefault(value, fallback string) string {
	if value == "" {
		return fallback
	}
	return value
}
