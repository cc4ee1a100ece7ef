package qemu

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"kata/host/process"
	"kata/host/vmm"
)

// sound returns a specification and configuration that New accepts.
func sound(t *testing.T) (vmm.Spec, Config) {
	t.Helper()
	dir := t.TempDir()
	for _, name := range []string{"vmlinux", "initrd", "image"} {
		content := make([]byte, 1024)
		if name == "vmlinux" {
			copy(content, "\x7fELF")
		}
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	binary := filepath.Join(dir, "qemu")
	if err := os.WriteFile(binary, []byte("#!/bin/false\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	return vmm.Spec{
		ID: "pod", Dir: dir, VCPUs: 1, MemoryMiB: 128, Accel: vmm.AccelTCG,
		Kernel: filepath.Join(dir, "vmlinux"), Initrd: filepath.Join(dir, "initrd"),
	}, Config{Path: binary, Firmware: []string{}}
}

func TestNewNamesWhatIsWrong(t *testing.T) {
	tests := map[string]struct {
		spoil func(*vmm.Spec, *Config)
		want  []string
	}{
		"no QEMU":               {func(_ *vmm.Spec, c *Config) { c.Path = "/nowhere/qemu" }, []string{"find QEMU", "/nowhere/qemu", "no such file"}},
		"no QEMU in the path":   {func(_ *vmm.Spec, c *Config) { c.Path = "qemu-system-pdp11" }, []string{"qemu-system-pdp11", "not found"}},
		"QEMU not executable":   {func(s *vmm.Spec, c *Config) { c.Path = s.Kernel }, []string{"vmlinux", "permission denied"}},
		"no kernel":             {func(s *vmm.Spec, _ *Config) { s.Kernel = "/nowhere/vmlinux" }, []string{"guest kernel", "/nowhere/vmlinux", "no such file"}},
		"kernel is a directory": {func(s *vmm.Spec, _ *Config) { s.Kernel = s.Dir }, []string{"guest kernel", "not a regular file"}},
		"kernel is a fifo": {func(s *vmm.Spec, _ *Config) {
			s.Kernel = filepath.Join(s.Dir, "fifo")
			_ = syscall.Mkfifo(s.Kernel, 0o600)
		}, []string{"guest kernel", "not a regular file"}},
		"kernel is no kernel": {func(s *vmm.Spec, _ *Config) { s.Kernel = s.Initrd }, []string{"guest kernel", "initrd is neither an ELF kernel nor a bzImage"}},
		"kernel is empty":     {func(s *vmm.Spec, _ *Config) { _ = os.Truncate(s.Kernel, 0) }, []string{"guest kernel", "is empty"}},
		"no initrd":           {func(s *vmm.Spec, _ *Config) { s.Initrd = "/nowhere/initrd" }, []string{"guest initrd", "/nowhere/initrd"}},
		"no image":            {func(s *vmm.Spec, _ *Config) { s.Initrd, s.Image = "", "/nowhere/image" }, []string{"guest image", "/nowhere/image"}},
		"image too short": {func(s *vmm.Spec, _ *Config) {
			s.Initrd, s.Image = "", s.Initrd
			_ = os.Truncate(s.Image, 100)
		}, []string{"guest image", "shorter than a sector"}},
		"initrd and image":    {func(s *vmm.Spec, _ *Config) { s.Image = s.Initrd }, []string{"both an initrd", "image"}},
		"no directory":        {func(s *vmm.Spec, _ *Config) { s.Dir = "/nowhere" }, []string{"machine directory", "/nowhere"}},
		"relative path":       {func(s *vmm.Spec, _ *Config) { s.Kernel = "vmlinux" }, []string{`"vmlinux"`, "not absolute"}},
		"no id":               {func(s *vmm.Spec, _ *Config) { s.ID = "" }, []string{"no id"}},
		"no vCPU":             {func(s *vmm.Spec, _ *Config) { s.VCPUs = 0 }, []string{"0 vCPUs"}},
		"fewer vCPUs at most": {func(s *vmm.Spec, _ *Config) { s.VCPUs, s.MaxVCPUs = 4, 2 }, []string{"at most 2 vCPUs but 4"}},
		"no memory":           {func(s *vmm.Spec, _ *Config) { s.MemoryMiB = 0 }, []string{"0 MiB"}},
		"unknown accelerator": {func(s *vmm.Spec, _ *Config) { s.Accel = "auto" }, []string{`"auto"`}},
		"machine type":        {func(_ *vmm.Spec, c *Config) { c.MachineType = "microvm" }, []string{`"microvm"`, "q35"}},
		"places for devices":  {func(s *vmm.Spec, _ *Config) { s.HotplugDevices = 99 }, []string{"99 devices"}},
		"a negative number":   {func(s *vmm.Spec, _ *Config) { s.HotplugDevices = -1 }, []string{"-1 devices"}},
		"sandbox":             {func(_ *vmm.Spec, c *Config) { c.Sandbox = "yes" }, []string{"yes"}},
		"two shares one tag": {func(s *vmm.Spec, _ *Config) {
			s.Shares = []vmm.Share{{Socket: "/a", Tag: "t"}, {Socket: "/b", Tag: "t"}}
		}, []string{`two shares have the tag "t"`}},
		"tag too long":       {func(s *vmm.Spec, _ *Config) { s.Shares = []vmm.Share{{Socket: "/a", Tag: strings.Repeat("t", 37)}} }, []string{"not 1 to 36 bytes"}},
		"queue size":         {func(s *vmm.Spec, _ *Config) { s.Shares = []vmm.Share{{Socket: "/a", Tag: "t", QueueSize: 100}} }, []string{"queue size 100"}},
		"line in parameters": {func(s *vmm.Spec, _ *Config) { s.KernelParams = []string{"a\nb"} }, []string{"line break"}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			spec, cfg := sound(t)
			test.spoil(&spec, &cfg)
			_, err := New(spec, cfg, nil, slog.New(slog.DiscardHandler))
			if err == nil {
				t.Fatal("New accepts it")
			}
			if strings.Contains(err.Error(), "\n") {
				t.Errorf("error has more than one line: %q", err)
			}
			for _, text := range test.want {
				if !strings.Contains(err.Error(), text) {
					t.Errorf("error %q does not hold %q", err, text)
				}
			}
		})
	}
}

func TestNewAcceptsWhatIsSound(t *testing.T) {
	spec, cfg := sound(t)
	if _, err := New(spec, cfg, nil, slog.New(slog.DiscardHandler)); err != nil {
		t.Error(err)
	}
}

func TestReadPartitioned(t *testing.T) {
	table := make([]byte, 1024)
	table[510], table[511] = 0x55, 0xaa
	entry := append([]byte(nil), table...)
	entry[450] = 0x83
	for name, test := range map[string]struct {
		content []byte
		want    bool
	}{
		"a partition":                    {entry, true},
		"a boot sector without an entry": {table, false},
		"a bare file system":             {make([]byte, 4096), false},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "image")
			if err := os.WriteFile(path, test.content, 0o600); err != nil {
				t.Fatal(err)
			}
			if got, err := readPartitioned(path); err != nil || got != test.want {
				t.Errorf("readPartitioned = %v, %v; want %v", got, err, test.want)
			}
		})
	}
}

func TestLastLines(t *testing.T) {
	for _, test := range []struct{ text, want string }{
		{"", ""}, {"\n\n", ""}, {"one", "one"}, {"one\ntwo\nthree\n\n", "two\nthree"},
	} {
		if got := lastLines(test.text, 2); got != test.want {
			t.Errorf("lastLines(%q) = %q, want %q", test.text, got, test.want)
		}
	}
}

func TestNeedsOneThread(t *testing.T) {
	spawner := process.NewSpawner()
	defer spawner.Close()
	for name, test := range map[string]struct {
		version    string
		vcpus, max int
		want       bool
	}{
		"one vCPU":                         {"7.2.22", 1, 1, false},
		"one vCPU, no maximum":             {"7.2.22", 1, 0, false},
		"one vCPU that may become two":     {"9.0.0", 1, 2, true},
		"two vCPUs with an old QEMU":       {"7.2.22", 2, 2, true},
		"two vCPUs with a newer QEMU":      {"8.1.0", 2, 2, false},
		"two vCPUs with who knows what":    {"unknown", 2, 4, true},
		"two vCPUs and nobody to be asked": {"", 2, 0, true},
	} {
		t.Run(name, func(t *testing.T) {
			binary := filepath.Join(t.TempDir(), "qemu")
			if test.version != "" {
				script := "#!/bin/sh\necho QEMU emulator version " + test.version + "\n"
				if err := os.WriteFile(binary, []byte(script), 0o700); err != nil {
					t.Fatal(err)
				}
			}
			spec := &vmm.Spec{VCPUs: test.vcpus, MaxVCPUs: test.max}
			if got := needsOneThread(spec, binary, spawner); got != test.want {
				t.Errorf("needsOneThread = %v", got)
			}
		})
	}
}

// TestReadableWithoutPrivileges: root reads every file, QEMU's root does not.
func TestReadableWithoutPrivileges(t *testing.T) {
	me, mine, other := uint32(os.Geteuid()), uint32(os.Getegid()), uint32(54321)
	for _, tt := range []struct {
		uid, gid, mode uint32
		want           bool
	}{
		{me, mine, 0o400, true}, {me, mine, 0o044, false},
		{other, mine, 0o040, true}, {other, mine, 0o404, false},
		{other, other, 0o004, true}, {other, other, 0o660, false},
	} {
		if got := readableWithoutPrivileges(tt.uid, tt.gid, tt.mode); got != tt.want {
			t.Errorf("%d:%d mode %04o: %v, want %v", tt.uid, tt.gid, tt.mode, got, tt.want)
		}
	}
}
