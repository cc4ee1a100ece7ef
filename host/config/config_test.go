package config

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"golang.org/x/sys/unix"
)

// big is a host that limits nothing in these tests.
var big = Host{CPUs: 64, MemoryMiB: 1 << 20}

func TestTemplateHoldsTheBuiltInDefaults(t *testing.T) {
	text, err := os.ReadFile("configuration-qemu.toml")
	if err != nil {
		t.Fatal(err)
	}
	got, err := Decode("configuration-qemu.toml", string(text), big)
	if err != nil {
		t.Fatal(err)
	}
	ignore := cmp.Options{
		cmpopts.IgnoreFields(Config{}, "Path", "source", "byPod"),
		cmpopts.EquateEmpty(),
	}
	if diff := cmp.Diff(Default(), got, ignore); diff != "" {
		t.Errorf("template differs from the defaults (-default +template):\n%s", diff)
	}
	for _, keys := range []struct {
		table string
		keys  []key
	}{{"hypervisor.qemu", hypervisorKeys()}, {"agent.kata", agentKeys()}, {"runtime", runtimeKeys()}} {
		for _, k := range keys.keys {
			// Names have one value; the timeout is shown in [runtime].
			switch k.name {
			case "name", "agent_name", "hypervisor_name", "create_container_timeout":
				continue
			}
			if !strings.Contains(string(text), "\n"+k.name+" = ") {
				t.Errorf("template lacks %s of [%s]", k.name, keys.table)
			}
		}
	}
}

func TestValues(t *testing.T) {
	text := `
[hypervisor.qemu]
path = "/q"
kernel = "/k"
image = "/i"
kernel_params = "a=1 b"
firmware = "/f"
guest_hook_path = "/h"
machine_accelerators = "nosmm"
cpu_features = "pmu=off"
pcie_root_port = 2
seccompsandbox = "on,spawn=deny"
accel = "tcg"
default_vcpus = 1.5
default_memory = 128
virtio_fs_daemon = "/v"
virtio_fs_cache = "none"
virtio_fs_extra_args = ["-o", "x"]
virtio_fs_queue_size = 512
stop_timeout = 3
enable_debug = true
[agent.kata]
dial_timeout = 7
enable_debug = true
debug_console_enabled = true
[runtime]
create_container_timeout = 9
kill_timeout = 4
enable_debug = true
hypervisor_name = "qemu"
disable_guest_seccomp = false
`
	got, err := Decode("f", text, big)
	if err != nil {
		t.Fatal(err)
	}
	want := &Config{
		Path:    "f",
		Machine: Machine{Kernel: "/k", Image: "/i", KernelParams: "a=1 b", VCPUs: 2, MemoryMiB: 128},
		Driver: Driver{
			Name: "qemu", Path: "/q", Accel: "tcg", Firmware: "/f", MachineType: "q35", MachineAccelerators: "nosmm",
			CPUFeatures: "pmu=off", PCIeRootPorts: 2, SeccompSandbox: "on,spawn=deny", StopTimeout: 3 * time.Second, Debug: true,
		},
		FileShare: FileShare{Kind: "virtio-fs", Daemon: "/v", Cache: "never", ExtraArgs: []string{"-o", "x"}, QueueSize: 512},
		Agent:     Agent{GuestHookPath: "/h", DialTimeout: 7 * time.Second, Debug: true, DebugConsole: true},
		Runtime: Runtime{
			CreateContainerTimeout: 9 * time.Second,
			KillTimeout:            4 * time.Second,
			Debug:                  true,
		},
	}
	if diff := cmp.Diff(want, got, cmpopts.IgnoreFields(Config{}, "source", "byPod")); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestVCPUsFollowTheHost(t *testing.T) {
	small := Host{CPUs: 2}
	for name, tt := range map[string]struct {
		text        string
		vcpus, warn int
	}{
		"absent":             {"", 1, 0},
		"zero":               {"default_vcpus = 0\ndefault_maxvcpus = 0", 1, 0},
		"negative is all":    {"default_vcpus = -1", 2, 0},
		"more than the host": {"default_vcpus = 8\ndefault_maxvcpus = 240", 2, 2},
		"fraction":           {"default_vcpus = 0.5", 1, 0},
	} {
		t.Run(name, func(t *testing.T) {
			c, err := Decode("f", "[hypervisor.qemu]\n"+tt.text, small)
			if err != nil {
				t.Fatal(err)
			}
			if c.Machine.VCPUs != tt.vcpus || len(c.Warnings) != tt.warn {
				t.Errorf("got %d, warnings %v", c.Machine.VCPUs, c.Warnings)
			}
		})
	}
}

func TestKeysWithoutEffectWarnWhenTheyAskForSomething(t *testing.T) {
	text := `[hypervisor.qemu]
enable_hugepages = true
block_device_driver = "virtio-scsi"
enable_iommu = false
hot_plug_vfio = "no-port"
machine_type = "pc"
default_maxvcpus = 4
enable_annotations = ["^default_"]
valid_hypervisor_paths = ["/usr/bin/*"]
valid_virtio_fs_daemon_paths = []
[factory]
enable_template = true
[runtime]
internetworking_model = "macvtap"
[agent.kata]
enable_tracing = true
[agent.kata.mem_agent]
compact_order = 9
`
	c, err := Decode("f", text, big)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, w := range c.Warnings {
		got = append(got, w.String())
	}
	want := []string{
		`f:2: hypervisor.qemu.enable_hugepages = true: not implemented yet, has no effect`,
		`f:6: hypervisor.qemu.machine_type = "pc": not implemented, q35 is used`,
		`f:7: hypervisor.qemu.default_maxvcpus = 4: not implemented yet, has no effect`,
		`f:8: hypervisor.qemu.enable_annotations = ["^default_"]: not implemented yet, has no effect`,
		`f:9: hypervisor.qemu.valid_hypervisor_paths = ["/usr/bin/*"]: not implemented yet, has no effect`,
		`f:12: factory.enable_template = true: not implemented yet, has no effect`,
		`f:14: runtime.internetworking_model = "macvtap": not implemented yet, has no effect`,
		`f:16: agent.kata.enable_tracing = true: not implemented yet, has no effect`,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestNoKeyIsListedTwice(t *testing.T) {
	for table, keys := range map[string][]key{
		"hypervisor": append(append(hypervisorKeys(), hypervisorPending()...), otherDriverKeys()...),
		"agent":      append(agentKeys(), agentPending()...),
		"runtime":    append(runtimeKeys(), runtimePending()...),
		"mem_agent":  memAgentKeys(),
	} {
		seen := map[string]bool{}
		for _, k := range keys {
			if seen[k.name] {
				t.Errorf("%s of %s is listed twice", k.name, table)
			}
			seen[k.name] = true
			if k.name == "" || k.apply == nil || k.kind == "" {
				t.Errorf("incomplete key %+v of %s", k, table)
			}
		}
	}
}

func write(t *testing.T, path, text string) string {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestLookUpOrder(t *testing.T) {
	dir := t.TempDir()
	file := func(name string) string {
		return write(t, filepath.Join(dir, name), "[runtime]\nenable_debug = true\n")
	}
	option, env := file("option"), file("env")
	search := []string{filepath.Join(dir, "absent"), file("etc"), file("usr")}
	for name, tt := range map[string]struct {
		s    Sources
		want string
	}{
		"the shim's option first":    {Sources{"", option, env, search, big}, option},
		"then the environment":       {Sources{"", "", env, search, big}, env},
		"then the search list":       {Sources{"", "", "", search, big}, search[1]},
		"built-in when there's none": {Sources{"", "", "", search[:1], big}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			c, err := Load(tt.s)
			if err != nil {
				t.Fatal(err)
			}
			if c.Path != tt.want {
				t.Errorf("loaded %q, want %q", c.Path, tt.want)
			}
		})
	}
}

func TestFilesThatCannotBeRead(t *testing.T) {
	dir := t.TempDir()
	fifo := filepath.Join(dir, "fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	huge := write(t, filepath.Join(dir, "huge"), strings.Repeat("#", maxFileSize+1))
	absent := filepath.Join(dir, "absent")
	for name, tt := range map[string]struct {
		s    Sources
		want string
	}{
		"a named file that is missing": {Sources{Env: absent}, "read configuration file named by environment variable KATA_CONF_FILE: open " + absent + ": no such file or directory"},
		"a folder":                     {Sources{Option: dir}, "read configuration file named by shim option ConfigPath: read " + dir + ": not a regular file"},
		"a pipe":                       {Sources{Option: fifo}, "read configuration file named by shim option ConfigPath: read " + fifo + ": not a regular file"},
		"a huge file":                  {Sources{Option: huge}, "read configuration file named by shim option ConfigPath: read " + huge + ": larger than 262144 bytes"},
		"a folder in the search list":  {Sources{Search: []string{dir}}, "read configuration file: read " + dir + ": not a regular file"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Load(tt.s)
			if err == nil || err.Error() != tt.want {
				t.Errorf("got  %v\nwant %s", err, tt.want)
			}
		})
	}
}

func TestCheckFillsPathsFromTheSearchLists(t *testing.T) {
	root := t.TempDir()
	for _, p := range []string{
		"/opt/kata/bin/qemu-system-x86_64",
		"/opt/kata/share/kata-containers/vmlinux.container",
		"/usr/share/kata-containers/vmlinuz.container",
		"/usr/share/kata-containers/kata-containers-initrd.img",
		"/usr/lib/qemu/virtiofsd",
	} {
		write(t, root+p, "")
	}
	c := Default()
	if missing := c.check(root); len(missing) > 0 {
		t.Fatal(missing)
	}
	want := Default()
	want.Driver.Path = root + "/opt/kata/bin/qemu-system-x86_64"
	want.Machine.Kernel = root + "/opt/kata/share/kata-containers/vmlinux.container"
	want.Machine.Initrd = root + "/usr/share/kata-containers/kata-containers-initrd.img"
	want.FileShare.Daemon = root + "/usr/lib/qemu/virtiofsd"
	if diff := cmp.Diff(want, c, cmp.AllowUnexported(source{}, Config{})); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if missing := c.check(root); len(missing) > 0 {
		t.Errorf("second check: %v", missing)
	}
}

func TestCheckNamesWhatIsMissing(t *testing.T) {
	dir := t.TempDir()
	qemu := write(t, filepath.Join(dir, "qemu"), "")
	plain := write(t, filepath.Join(dir, "plain"), "")
	if err := os.Chmod(plain, 0o644); err != nil {
		t.Fatal(err)
	}
	common := "[hypervisor.qemu]\npath = \"" + qemu + "\"\n"
	for name, tt := range map[string]struct{ text, want string }{
		"a kernel that does not exist": {
			common + "kernel = \"/no/such/kernel\"\n",
			`f:3: hypervisor.qemu.kernel = "/no/such/kernel": no such file or directory`,
		},
		"a VMM that does not exist": {
			"[hypervisor.qemu]\npath = \"/no/such/qemu\"\n",
			`f:2: hypervisor.qemu.path = "/no/such/qemu": no such file or directory`,
		},
		"a VMM that is not executable": {
			"[hypervisor.qemu]\npath = \"" + plain + "\"\n",
			`f:2: hypervisor.qemu.path = "` + plain + `": not executable: permission denied`,
		},
		"a folder for a kernel": {
			common + "kernel = \"" + dir + "\"\n",
			`f:3: hypervisor.qemu.kernel = "` + dir + `": not a regular file`,
		},
		"an image that does not exist": {
			common + "kernel = \"" + plain + "\"\nimage = \"/no/image\"\n",
			`f:4: hypervisor.qemu.image = "/no/image": no such file or directory`,
		},
		"no kernel anywhere": {
			common,
			`f:1: hypervisor.qemu.kernel: not set, and none of these exists: ` + strings.Join(kernelSearch(), ", "),
		},
	} {
		t.Run(name, func(t *testing.T) {
			c, err := Decode("f", tt.text, big)
			if err != nil {
				t.Fatal(err)
			}
			missing := c.check(t.TempDir())
			if len(missing) == 0 || missing[0].Error() != tt.want {
				t.Errorf("got  %v\nwant %s", missing, tt.want)
			}
		})
	}
}

func TestCheckOfDefaultsSaysThatThereIsNoFile(t *testing.T) {
	missing := Default().check(t.TempDir())
	if len(missing) != 4 {
		t.Fatalf("missing %v", missing)
	}
	err := missing[0]
	if !strings.HasPrefix(err.Error(), "built-in configuration: hypervisor.qemu.path: not set, and none of these exists: ") || !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v", err)
	}
}

func FuzzDecode(f *testing.F) {
	text, err := os.ReadFile("configuration-qemu.toml")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(string(text))
	f.Add("[hypervisor.qemu]\nx.y = [[1], {a=1}]\n[[runtime.shared_mounts]]\nname='a'\n")
	f.Add("[agent.kata.mem_agent]\ncompact_order = 1\n\"a,b\"=3\nK=1\nk=1979-05-27T07:32:00Z")
	f.Add("default_vcpus=inf\n[hypervisor]\nqemu={default_vcpus=-inf}")
	f.Add(strings.Repeat("[", 1000))
	f.Fuzz(func(t *testing.T, text string) {
		c, err := Decode("f", text, big)
		if (c == nil) == (err == nil) {
			t.Fatalf("config %v, error %v", c, err)
		}
		if err != nil {
			if strings.ContainsRune(err.Error(), '\n') {
				t.Errorf("error of several lines: %q", err)
			}
			return
		}
		if m := c.Machine; m.VCPUs < 1 || m.VCPUs > MaxVCPUs || m.MemoryMiB < MinMemoryMiB {
			t.Errorf("impossible values %+v", m)
		}
	})
}
