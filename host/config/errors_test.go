package config

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestErrorsNameFileLineKeyAndValue(t *testing.T) {
	for name, tt := range map[string]struct{ text, want string }{
		"an unknown key": {
			"[hypervisor.qemu]\n\ndefault_memmory = 512\n",
			`f.toml:3: hypervisor.qemu.default_memmory = 512: unknown key, did you mean default_memory?`,
		},
		"an unknown key nothing like any other": {
			"[runtime]\nxyzzy = \"on\"\n",
			`f.toml:2: runtime.xyzzy = "on": unknown key`,
		},
		"a known key with capitals": {
			"[runtime]\nEnable_Debug = true\n",
			`f.toml:2: runtime.Enable_Debug = true: unknown key, did you mean enable_debug?`,
		},
		"a key outside of any table": {
			"kernel = \"/boot/vmlinux\"\n",
			`f.toml:1: kernel = "/boot/vmlinux": unknown key`,
		},
		"a kernel module without a name": {
			"[agent.kata]\nkernel_modules = [\"a=1 dummy\"]\n",
			`f.toml:2: agent.kata.kernel_modules = ["a=1 dummy"]: element "a=1 dummy": must be the name of a kernel module and its parameters, as "dummy numdummies=2"`,
		},
		"an unknown table": {
			"[hypervisor.qemu]\n[proxy.kata]\nx = 1\n",
			`f.toml:2: proxy: unknown table`,
		},
		"an unknown table in an array of tables": {
			"[[extra]]\nx = 1\n",
			`f.toml:1: extra = [{…}]: unknown key`,
		},
		"an unknown agent": {
			"[agent.katta]\n",
			`f.toml:1: agent.katta: unknown table, did you mean kata?`,
		},
		"an unknown key below a key with strange characters": {
			"[runtime]\n\"a,b\" = 1\n",
			`f.toml:1: runtime."a,b" = 1: unknown key`,
		},
		"a value where a table should be": {
			"hypervisor = 3\n",
			`f.toml:1: hypervisor = 3: must be a table`,
		},
		"a table where a value should be": {
			"[hypervisor.qemu.kernel]\npath = \"/k\"\n",
			`f.toml:1: hypervisor.qemu.kernel = {…}: must be a string, not a table`,
		},
		"a string for an integer": {
			"[hypervisor.qemu]\ndefault_memory = \"2048\"\n",
			`f.toml:2: hypervisor.qemu.default_memory = "2048": must be an integer, not a string`,
		},
		"an integer for a boolean": {
			"[runtime]\nenable_debug = 1\n",
			`f.toml:2: runtime.enable_debug = 1: must be a boolean, not an integer`,
		},
		"a list with an integer": {
			"[hypervisor.qemu]\nvirtio_fs_extra_args = [\n  \"-o\",\n  3,\n]\n",
			`f.toml:2: hypervisor.qemu.virtio_fs_extra_args = ["-o", 3]: must be a list of strings, not a list`,
		},
		"a wrong type for a key without effect": {
			"[hypervisor.qemu]\nmemory_slots = \"ten\"\n",
			`f.toml:2: hypervisor.qemu.memory_slots = "ten": must be an integer, not a string`,
		},
		"too little memory": {
			"[hypervisor.qemu]\ndefault_memory = 64\n",
			`f.toml:2: hypervisor.qemu.default_memory = 64: must be at least 128 MiB`,
		},
		"negative memory": {
			"[hypervisor.qemu]\ndefault_memory = -1\n",
			`f.toml:2: hypervisor.qemu.default_memory = -1: must be at least 128 MiB`,
		},
		"more memory than the host has": {
			"[hypervisor.qemu]\ndefault_memory = 1048577\n",
			`f.toml:2: hypervisor.qemu.default_memory = 1048577: must not exceed the host's 1048576 MiB`,
		},
		"too many vCPUs": {
			"[hypervisor.qemu]\ndefault_vcpus = 241\n",
			`f.toml:2: hypervisor.qemu.default_vcpus = 241: must be at most 240`,
		},
		"no number of vCPUs": {
			"[hypervisor.qemu]\ndefault_vcpus = nan\n",
			`f.toml:2: hypervisor.qemu.default_vcpus = NaN: must be at most 240`,
		},
		"a ceiling below the vCPUs": {
			"[hypervisor.qemu]\ndefault_vcpus = 4\ndefault_maxvcpus = 2\n",
			`f.toml:3: hypervisor.qemu.default_maxvcpus = 2: must not be below default_vcpus, which is 4`,
		},
		"a negative ceiling": {
			"[hypervisor.qemu]\ndefault_maxvcpus = -2\n",
			`f.toml:2: hypervisor.qemu.default_maxvcpus = -2: must be 0 to 240`,
		},
		"an image and an initrd": {
			"[hypervisor.qemu]\nimage = \"/i\"\ninitrd = \"/r\"\n",
			`f.toml:3: hypervisor.qemu.initrd = "/r": cannot be given together with image`,
		},
		"a relative path": {
			"[hypervisor.qemu]\nkernel = \"vmlinux\"\n",
			`f.toml:2: hypervisor.qemu.kernel = "vmlinux": must be an absolute path`,
		},
		"an unknown accelerator": {
			"[hypervisor.qemu]\naccel = \"xen\"\n",
			`f.toml:2: hypervisor.qemu.accel = "xen": must be one of auto, kvm, tcg`,
		},
		"a machine that is not there": {
			"[hypervisor.qemu]\nmachine_type = \"virt\"\n",
			`f.toml:2: hypervisor.qemu.machine_type = "virt": must be q35`,
		},
		"a file system that is not there yet": {
			"[hypervisor.qemu]\nshared_fs = \"virtio-9p\"\n",
			`f.toml:2: hypervisor.qemu.shared_fs = "virtio-9p": not implemented yet; only virtio-fs is`,
		},
		"a queue size that is no power of two": {
			"[hypervisor.qemu]\nvirtio_fs_queue_size = 100\n",
			`f.toml:2: hypervisor.qemu.virtio_fs_queue_size = 100: must be a power of two, 2 to 1024`,
		},
		"kernel parameters on two lines": {
			"[hypervisor.qemu]\nkernel_params = \"a\\nb\"\n",
			`f.toml:2: hypervisor.qemu.kernel_params = "a\nb": must not contain control characters`,
		},
		"a broken regular expression": {
			"[hypervisor.qemu]\nenable_annotations = [\"ok\", \"(\"]\n",
			"f.toml:2: hypervisor.qemu.enable_annotations = [\"ok\", \"(\"]: element \"(\": error parsing regexp: missing closing ): `(`",
		},
		"a deadline of no sense": {
			"[agent.kata]\ndial_timeout = -5\n",
			`f.toml:2: agent.kata.dial_timeout = -5: must be 1 to 86400 seconds, or 0 for the default`,
		},
		"a hypervisor that cannot run yet": {
			"[hypervisor.clh]\npath = \"/usr/bin/cloud-hypervisor\"\n",
			`f.toml:1: hypervisor.clh: this hypervisor is not implemented yet; only [hypervisor.qemu] is`,
		},
		"an unknown key of another hypervisor": {
			"[hypervisor.qemu]\n[hypervisor.clh]\npth = \"/x\"\n",
			`f.toml:3: hypervisor.clh.pth = "/x": unknown key, did you mean path?`,
		},
		"protection that cannot be given": {
			"[hypervisor.qemu]\nconfidential_guest = true\n",
			`f.toml:2: hypervisor.qemu.confidential_guest = true: not implemented yet, and ignoring it would run the guest unprotected`,
		},
		"a relative path of the guest's hooks": {
			"[hypervisor.qemu]\nguest_hook_path = \"hooks\"\n",
			`f.toml:2: hypervisor.qemu.guest_hook_path = "hooks": must be an absolute path`,
		},
		"a filter that is not one": {
			"[hypervisor.qemu]\nseccompsandbox = \"yes\"\n",
			`f.toml:2: hypervisor.qemu.seccompsandbox = "yes": must be on with options, as in "on,spawn=deny", or off`,
		},
		"too many root ports": {
			"[hypervisor.qemu]\npcie_root_port = 17\n",
			`f.toml:2: hypervisor.qemu.pcie_root_port = 17: must be 0 to 16`,
		},
		"keys that exclude each other": {
			"[runtime]\ndisable_new_netns = true\n",
			`f.toml:2: runtime.disable_new_netns = true: works only with internetworking_model = "none"`,
		},
		"several errors, in the order of the file": {
			"[runtime]\nzzz = 1\n[agent.kata]\naaa = 2\n[hypervisor.qemu]\nbbb = 3\n",
			`f.toml:2: runtime.zzz = 1: unknown key (and 2 more)`,
		},
		"dotted keys and inline tables": {
			"runtime.enable_debug = true\nhypervisor = { qemu = { default_memory = 1 } }\n",
			`f.toml:2: hypervisor.qemu.default_memory = 1: must be at least 128 MiB`,
		},
		"a key given twice": {
			"[runtime]\nenable_debug = true\nenable_debug = false\n",
			`f.toml:3: runtime.enable_debug: Key 'runtime.enable_debug' has already been defined.`,
		},
		"text that is not TOML": {
			"[runtime]\nenable_debug = yes\n",
			`f.toml:2: runtime.enable_debug: expected value but found "yes" instead`,
		},
		"text that would break the line of the error": {
			"[runtime]\nname = \"\\\n\"\n",
			`f.toml:3: runtime.name: invalid escape in string '\\n'`,
		},
		"nesting without end": {
			"x=" + strings.Repeat("{a=", 257),
			`f.toml: more than 256 inline tables`,
		},
		"a key without end": {
			"# first\n" + strings.Repeat("a.", 20000) + "a = 1\n",
			`f.toml:2: line of more than 4096 bytes`,
		},
		"a string that does not end": {
			"[runtime]\nname = \"virt\n",
			`f.toml:2: runtime.name: strings cannot contain newlines`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Decode("f.toml", tt.text, big)
			if err == nil {
				t.Fatal("no error")
			}
			if diff := cmp.Diff(tt.want, err.Error()); diff != "" {
				t.Errorf("error (-want +got):\n%s", diff)
			}
		})
	}
}
