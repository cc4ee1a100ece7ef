package accel

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"kata/host/vmm"
)

func TestProbe(t *testing.T) {
	native := func(context.Context, *os.File) (time.Duration, error) { return 3 * time.Millisecond, nil }
	slow := func(context.Context, *os.File) (time.Duration, error) { return 0, errTooSlow }
	noVM := func(context.Context, *os.File) (time.Duration, error) { return 0, errors.New("create a VM: no") }
	untouched := func(context.Context, *os.File) (time.Duration, error) {
		t.Error("the device was tried")
		return 0, nil
	}
	tests := map[string]struct {
		modules []string
		device  bool
		run     func(context.Context, *os.File) (time.Duration, error)
		reason  string // why, when KVM is chosen or refused
		usable  bool
	}{
		"hardware module, guest at native speed": {[]string{"kvm", "kvm_intel"}, true, native, "kvm_intel runs guest code at native speed (probe took 3ms)", true},
		"amd module as well":                     {[]string{"kvm", "kvm_amd"}, true, native, "kvm_amd runs", true},
		"the emulating module":                   {[]string{"kvm", "kvm_pvm"}, true, untouched, "kvm_pvm emulates", false},
		"the emulating module beside hardware's": {[]string{"kvm_intel", "kvm_pvm"}, true, untouched, "kvm_pvm emulates", false},
		"no hardware module":                     {[]string{"kvm"}, true, untouched, "neither kvm_intel nor kvm_amd", false},
		"no modules at all":                      {nil, false, untouched, "neither kvm_intel nor kvm_amd", false},
		"no device":                              {[]string{"kvm_intel"}, false, untouched, "no such file", false},
		"guest code emulated":                    {[]string{"kvm_amd"}, true, slow, "emulated, not run", false},
		"no VM to be had":                        {[]string{"kvm_amd"}, true, noVM, "create a VM: no", false},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			for _, module := range test.modules {
				if err := os.MkdirAll(filepath.Join(dir, "module", module), 0o755); err != nil {
					t.Fatal(err)
				}
			}
			device := filepath.Join(dir, "kvm")
			if test.device {
				if err := os.WriteFile(device, nil, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			prober := &Prober{SysModule: filepath.Join(dir, "module"), Device: device, Run: test.run}

			for _, want := range []string{"auto", ""} {
				got, err := prober.Probe(t.Context(), want)
				if err != nil {
					t.Fatalf("want %q: %v", want, err)
				}
				expect := vmm.AccelTCG
				if test.usable {
					expect = vmm.AccelKVM
				}
				if got.Name != expect || !strings.Contains(got.Reason, test.reason) {
					t.Errorf("want %q: %+v; expected %s because %q", want, got, expect, test.reason)
				}
			}
			got, err := prober.Probe(t.Context(), "kvm")
			if test.usable && (err != nil || got.Name != vmm.AccelKVM) {
				t.Errorf("want kvm: %+v, %v", got, err)
			}
			if !test.usable && (err == nil || !strings.Contains(err.Error(), test.reason) || strings.Contains(err.Error(), "\n")) {
				t.Errorf("want kvm: error %q; expected one line with %q", err, test.reason)
			}
		})
	}
}

func TestProbeTCGTouchesNothing(t *testing.T) {
	prober := &Prober{SysModule: "/nonexistent", Device: "/nonexistent"}
	if got, err := prober.Probe(t.Context(), "tcg"); err != nil || got.Name != vmm.AccelTCG {
		t.Errorf("Probe = %+v, %v", got, err)
	}
}

func TestProbeUnknownName(t *testing.T) {
	if _, err := Probe(t.Context(), "hvf"); err == nil || !strings.Contains(err.Error(), `"hvf"`) {
		t.Errorf("error = %v", err)
	}
}

func TestProbeHonoursContext(t *testing.T) {
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "kvm_intel"), 0o755); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	prober := &Prober{SysModule: dir, Device: os.DevNull, Run: func(ctx context.Context, _ *os.File) (time.Duration, error) {
		cancel()
		<-ctx.Done()
		return 0, ctx.Err()
	}}
	if _, err := prober.Probe(ctx, "auto"); !errors.Is(err, context.Canceled) {
		t.Errorf("error = %v", err)
	}
}

// A device that is no KVM must end in an error, not in a hang or a crash.
func TestProbeGuestOnSomethingElse(t *testing.T) {
	device, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer device.Close()
	if _, err := runProbeGuest(t.Context(), device); err == nil || !strings.Contains(err.Error(), "no KVM device") {
		t.Errorf("error = %v", err)
	}
}
