package qemu

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"kata/host/vmm"
)

var update = flag.Bool("update", false, "rewrite golden files")

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name+".golden")
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-want +got; -update rewrites it):\n%s", path, diff)
	}
}

// oneOptionALine sets an option and its value on one line.
func oneOptionALine(argv []string) string {
	var out strings.Builder
	for i, arg := range argv {
		switch {
		case i == 0:
		case strings.HasPrefix(arg, "-"):
			out.WriteByte('\n')
		default:
			out.WriteByte(' ')
		}
		out.WriteString(arg)
	}
	return out.String() + "\n"
}

func TestArguments(t *testing.T) {
	plain := func() command {
		return command{
			spec: vmm.Spec{
				ID: "pod", Dir: "/run/kata/pod", VCPUs: 1, MemoryMiB: 512,
				Kernel: "/k/vmlinux", Initrd: "/k/initrd", Accel: vmm.AccelTCG,
			},
			cfg:  Config{Path: "qemu"}.withDefaults(),
			host: hostFacts{firmware: "/fw/qboot.rom", tscKHz: 2596095},
		}
	}
	kvm := func(c *command) { c.spec.Accel, c.host.tscKHz = vmm.AccelKVM, 0 }
	tests := map[string]func(*command){
		"tcg":           func(*command) {},
		"kvm":           kvm,
		"tcg2":          func(c *command) { c.spec.VCPUs, c.host.oneThread = 2, true },
		"tcg2-parallel": func(c *command) { c.spec.VCPUs = 2 },
		"kvm2":          func(c *command) { kvm(c); c.spec.VCPUs, c.spec.MaxVCPUs = 2, 8 },
		"debug": func(c *command) {
			c.spec.Debug, c.spec.ConsoleFile = true, "/run/kata/pod/console.log"
		},
		"devices": func(c *command) {
			c.spec.Vsock = &vmm.Vsock{Socket: "/run/kata/pod/vsock.sock"}
			c.spec.Shares = []vmm.Share{
				{Socket: "/run/kata/pod/fs.sock", Tag: "kataShared"},
				{Socket: "/run/kata/pod/other.sock", Tag: "other", QueueSize: 256},
			}
			c.spec.HotplugDevices = 9
		},
		"image":             func(c *command) { c.spec.Initrd, c.spec.Image = "", "/k/image" },
		"partitioned-image": func(c *command) { c.spec.Initrd, c.spec.Image, c.host.imagePartitioned = "", "/k/image", true },
		"operator": func(c *command) {
			c.spec.KernelParams = []string{"agent.log=debug", "panic=0", "quiet"}
			c.cfg.MachineAccelerators, c.cfg.CPUFeatures, c.cfg.TBSizeMiB = "nosmm,nosmbus", "pmu=off,-avx2", 32
		},
		"commas": func(c *command) {
			c.spec.ID, c.spec.Image, c.spec.Initrd = "a,b", "/k/a,b", ""
			c.spec.Vsock = &vmm.Vsock{Socket: "/run/a,b"}
			c.spec.Shares = []vmm.Share{{Socket: "/run/c,d", Tag: "t,u"}}
		},
		"hot-memory": func(c *command) { c.spec.MaxMemoryMiB = 700 },
		"template":   func(c *command) { c.spec.MemoryFile = os.Stdin },
		"clone": func(c *command) {
			c.spec.MemoryFile, c.spec.MemoryPrivate, c.spec.Restore = os.Stdin, true, "/run/kata/template"
		},
		"no-firmware-no-clock": func(c *command) { c.host = hostFacts{} },
	}
	for name, change := range tests {
		t.Run(name, func(t *testing.T) {
			c := plain()
			change(&c)
			golden(t, name, oneOptionALine(c.arguments()))
		})
	}
}

func TestParseTSC(t *testing.T) {
	tests := map[string]struct {
		cpuinfo string
		want    int
	}{
		"the first processor's bogomips": {"processor\t: 0\ncpu MHz\t\t: 800.1\nbogomips\t: 5192.19\n\nprocessor\t: 1\nbogomips\t: 1.0\n", 2596095},
		"none":                           {"processor\t: 0\n", 0},
		"empty":                          {"", 0},
		"not a number":                   {"bogomips\t: fast\n", 0},
		"not a rate":                     {"bogomips\t: NaN\n", 0},
		"absurdly slow":                  {"bogomips\t: 1.00\n", 0},
		"absurdly fast":                  {"bogomips\t: 1e30\n", 0},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			if got := parseTSC([]byte(test.cpuinfo)); got != test.want {
				t.Errorf("parseTSC = %d, want %d", got, test.want)
			}
		})
	}
}

func TestVersionAtLeast(t *testing.T) {
	for text, want := range map[string]bool{
		"QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18+b3)\nCopyright": false,
		"QEMU emulator version 8.0.5":  false,
		"QEMU emulator version 8.1.0":  true,
		"QEMU emulator version 10.0.2": true,
		"QEMU emulator version":        false,
		"version x.y":                  false,
		"":                             false,
	} {
		if got := versionAtLeast(text, 8, 1); got != want {
			t.Errorf("versionAtLeast(%q) = %v", text, got)
		}
	}
}
