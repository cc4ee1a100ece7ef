//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"kata/test/harness"
	"kata/test/pace"
)

// wantOneLine fails the test unless ctr failed with one line that holds every
// one of the words.
func (t *test) wantOneLine(r harness.Result, words ...string) {
	t.Helper()
	if r.Code == 0 {
		t.Error("ctr ended with 0")
	}
	text := strings.TrimSpace(r.Stderr)
	if text == "" || strings.Contains(text, "\n") {
		t.Errorf("want an error of one line, got %q", text)
	}
	for _, word := range words {
		if !strings.Contains(text, word) {
			t.Errorf("the error does not name %q: %s", word, text)
		}
	}
	t.Logf("the user sees: %s", text)
}

func TestWrongConfigurationIsAnErrorThatNamesIt(t *testing.T) {
	tests := []struct {
		name  string
		text  string
		words []string
	}{
		{
			name:  "a key that nobody knows",
			text:  "[hypervisor.qemu]\ndefault_memmory = 512\n",
			words: []string{"configuration.toml:2", "default_memmory", "512"},
		},
		{
			name:  "a value of the wrong type",
			text:  "[hypervisor.qemu]\n\ndefault_memory = \"much\"\n",
			words: []string{"configuration.toml:3", "default_memory", "much"},
		},
		{
			name:  "a value that cannot be",
			text:  "[hypervisor.qemu]\ndefault_memory = 3\n",
			words: []string{"configuration.toml:2", "default_memory", "3"},
		},
		{
			name:  "no TOML at all",
			text:  "this is prose\n",
			words: []string{"configuration.toml:1"},
		},
		{
			name:  "a kernel that does not exist",
			text:  "[hypervisor.qemu]\nkernel = \"/no/such/kernel\"\n",
			words: []string{"/no/such/kernel"},
		},
		{
			name:  "an initrd that does not exist",
			text:  "[hypervisor.qemu]\nkernel = \"KERNEL\"\ninitrd = \"/no/such/initrd\"\n",
			words: []string{"/no/such/initrd"},
		},
		{
			name:  "no QEMU",
			text:  "[hypervisor.qemu]\nkernel = \"KERNEL\"\ninitrd = \"INITRD\"\npath = \"/no/such/qemu\"\n",
			words: []string{"/no/such/qemu"},
		},
		{
			name:  "a QEMU that is no program",
			text:  "[hypervisor.qemu]\nkernel = \"KERNEL\"\ninitrd = \"INITRD\"\npath = \"/etc/passwd\"\n",
			words: []string{"/etc/passwd"},
		},
		{
			name:  "a QEMU that does not run",
			text:  "[hypervisor.qemu]\nkernel = \"KERNEL\"\ninitrd = \"INITRD\"\npath = \"/bin/false\"\n",
			words: []string{"/bin/false"},
		},
		{
			name:  "no virtiofsd",
			text:  "[hypervisor.qemu]\nkernel = \"KERNEL\"\ninitrd = \"INITRD\"\nvirtio_fs_daemon = \"/no/such/virtiofsd\"\n",
			words: []string{"/no/such/virtiofsd"},
		},
		{
			name:  "a virtiofsd that does not run",
			text:  "[hypervisor.qemu]\nkernel = \"KERNEL\"\ninitrd = \"INITRD\"\nvirtio_fs_daemon = \"/bin/false\"\n",
			words: []string{"/bin/false"},
		},
	}
	repo, err := harness.Repository()
	if err != nil {
		t.Fatal(err)
	}
	paths := strings.NewReplacer("KERNEL", repo.Kernel(), "INITRD", repo.Initrd())
	for _, tt := range tests {
		kata(t, tt.name, func(t *test) {
			c := t.withConfigFile(t.container("true"), paths.Replace(tt.text))
			t.wantOneLine(node.Run(t.ctx, c), tt.words...)
		})
	}
}

func TestConfigurationFileThatIsNotThereIsNamed(t *testing.T) {
	kata(t, "kata", func(t *test) {
		c := t.container("true")
		c.Flags = []string{"--runtime-config-path", "/no/such/configuration.toml"}
		t.wantOneLine(node.Run(t.ctx, c), "/no/such/configuration.toml")
	})
}

func TestWrongSpecIsAnErrorThatNamesIt(t *testing.T) {
	tests := []struct {
		name   string
		change func(*specs.Spec)
		words  []string
	}{
		{
			name:   "a root file system that is not there",
			change: func(s *specs.Spec) { s.Root.Path = "/no/such/rootfs" },
			words:  []string{"/no/such/rootfs"},
		},
		{
			name: "a namespace that nobody knows",
			change: func(s *specs.Spec) {
				s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: "galaxy"})
			},
			words: []string{"galaxy"},
		},
		{
			name: "a mount whose source is not there",
			change: func(s *specs.Spec) {
				s.Mounts = append(s.Mounts, specs.Mount{Destination: "/x", Type: "bind", Source: "/no/such/source", Options: []string{"rbind"}})
			},
			words: []string{"/no/such/source"},
		},
		{
			name:   "no command",
			change: func(s *specs.Spec) { s.Process.Args = nil },
			words:  []string{"args"},
		},
		{
			name: "a resource limit that nobody knows",
			change: func(s *specs.Spec) {
				s.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_LUCK", Soft: 1, Hard: 1}}
			},
			words: []string{"RLIMIT_LUCK"},
		},
		{
			name: "a working directory that is a file",
			change: func(s *specs.Spec) {
				s.Process.Cwd = "/etc/passwd"
			},
			words: []string{"/etc/passwd"},
		},
	}
	for _, tt := range tests {
		kata(t, tt.name, func(t *test) {
			c := t.fromSpec(func(s *specs.Spec) {
				s.Process.Args = []string{"true"}
				tt.change(s)
			})
			t.wantOneLine(node.Run(t.ctx, c), tt.words...)
		})
	}
}

func TestBundleWithoutConfigJSONIsNamed(t *testing.T) {
	for _, r := range []struct{ name, runtime, binary string }{
		{"runc", harness.Runc, "containerd-shim-runc-v2"},
		{"kata", harness.Kata, "containerd-shim-kata-v2"},
	} {
		if *onlyRuntime != "" && *onlyRuntime != r.name {
			continue
		}
		t.Run(r.name, func(tt *testing.T) {
			t := begin(tt, r.runtime)
			// containerd writes config.json before it calls the shim, so call it as
			// containerd does.
			result := node.StartShim(t.ctx, r.binary, node.NewID("bundle"), t.TempDir())
			t.wantOneLine(result, "config.json")
		})
	}
}

// A device node on a nodev file system refuses even root with EACCES.
func TestNoPermissionOnDevKVMIsNamed(t *testing.T) {
	repo, err := harness.Repository()
	if err != nil {
		t.Fatal(err)
	}
	conf := repo.KataConfig(map[string]string{"accel": strconv.Quote("kvm")})
	dir := t.TempDir()
	enter := fmt.Sprintf(`
		test -e /dev/kvm || exit 0
		mount -t tmpfs -o nodev none %[1]s
		mknod %[1]s/kvm c 10 232
		mount --bind %[1]s/kvm /dev/kvm`, dir)
	if _, err := os.Stat("/dev/kvm"); err != nil {
		enter = "" // then its absence is what must be named
	}
	other := harness.Options{ShimDirs: []string{repo.Bin()}, KataConfig: conf, Enter: enter}
	withNode(t, other, func() {
		kata(t, "kata", func(t *test) {
			t.wantOneLine(node.Run(t.ctx, t.container("true")), "/dev/kvm")
		})
	})
}

// withNode runs f with another containerd in place of the shared one.
func withNode(t *testing.T, options harness.Options, f func()) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), pace.Of(*testLimit))
	defer cancel()
	other, err := harness.Start(ctx, options)
	if err != nil {
		t.Fatal(err)
	}
	shared := node
	node = other
	defer func() {
		node = shared
		if err := other.Close(); err != nil {
			t.Error(err)
		}
	}()
	all, err := images()
	if err != nil {
		t.Fatal(err)
	}
	for _, image := range all {
		if err := node.Import(ctx, image); err != nil {
			t.Fatal(err)
		}
	}
	f()
}

func TestShimExplainsItself(t *testing.T) {
	repo, err := harness.Repository()
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(filepath.Join(repo.Bin(), "containerd-shim-kata-v2"), "-v").CombinedOutput()
	if err != nil || !strings.Contains(string(out), "ersion") {
		t.Errorf("-v says %q, %v", out, err)
	}
}
