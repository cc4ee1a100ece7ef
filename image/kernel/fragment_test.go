package kernel

import (
	"strings"
	"testing"
)

func TestFragmentErrors(t *testing.T) {
	for name, tt := range map[string]struct{ text, want string }{
		"a line that is nothing": {
			"CONFIG_A=y\nCONFIG_B\n", `kernel config fragment, line 2: "CONFIG_B" is neither an option nor a comment`,
		},
		"an option given twice": {
			"CONFIG_A=y\n# CONFIG_A is not set\n", "kernel config fragment, line 2: CONFIG_A is given in line 1 already",
		},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := parseFragment([]byte(tt.text)); err == nil || err.Error() != tt.want {
				t.Errorf("got %v, want %s", err, tt.want)
			}
		})
	}
}

func TestVerifyNamesWhatDidNotTakeEffect(t *testing.T) {
	wanted, err := parseFragment([]byte(`# a comment
CONFIG_ON=y
CONFIG_TEXT="a b"
# CONFIG_OFF is not set
CONFIG_NO=n

CONFIG_DROPPED=y
CONFIG_OTHER=64
CONFIG_RENAMED=y
# CONFIG_FORCED is not set
# CONFIG_UNKNOWN_AND_OFF is not set
`))
	if err != nil {
		t.Fatal(err)
	}
	config := `CONFIG_ON=y
CONFIG_TEXT="a b"
# CONFIG_OFF is not set
# CONFIG_NO is not set
# CONFIG_DROPPED is not set
CONFIG_OTHER=32
CONFIG_FORCED=y
`
	err = verify(wanted, []byte(config))
	want := "4 options of the kernel config fragment did not take effect: " +
		"line 7: CONFIG_DROPPED=y is not set; line 8: CONFIG_OTHER=64 is 32; " +
		"line 9: CONFIG_RENAMED=y is unknown to this kernel or lacks a dependency; " +
		"line 10: CONFIG_FORCED=n is y"
	if err == nil || err.Error() != want {
		t.Errorf("got  %v\nwant %s", err, want)
	}
	if err := verify(wanted[:4], []byte(config)); err != nil {
		t.Errorf("what took effect: %v", err)
	}
}

func TestDefaultFragmentIsWellFormed(t *testing.T) {
	wanted, err := parseFragment(DefaultFragment())
	if err != nil {
		t.Fatal(err)
	}
	have := map[string]string{}
	for _, o := range wanted {
		have[o.name] = o.value
	}
	// What the rest of the product cannot do without.
	for _, name := range strings.Fields(`CONFIG_PVH CONFIG_BLK_DEV_INITRD CONFIG_VIRTIO_PCI CONFIG_VIRTIO_FS
		CONFIG_VIRTIO_VSOCKETS CONFIG_VIRTIO_CONSOLE CONFIG_CGROUPS CONFIG_MEMCG CONFIG_CGROUP_PIDS CONFIG_PID_NS
		CONFIG_SECCOMP_FILTER CONFIG_OVERLAY_FS CONFIG_DEVTMPFS CONFIG_PAGE_TABLE_ISOLATION CONFIG_RETPOLINE
		CONFIG_RETHUNK CONFIG_BPF_JIT`) {
		if have[name] != "y" {
			t.Errorf("%s is %q", name, have[name])
		}
	}
}

func FuzzFragment(f *testing.F) {
	f.Add("CONFIG_A=y\n# CONFIG_B is not set\n#\n")
	f.Fuzz(func(t *testing.T, text string) {
		wanted, err := parseFragment([]byte(text))
		if err != nil {
			return
		}
		if err := verify(wanted, []byte(text)); err != nil {
			t.Errorf("a fragment does not satisfy itself: %v", err)
		}
	})
}
