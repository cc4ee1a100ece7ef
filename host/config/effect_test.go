package config

import (
	"fmt"
	"reflect"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// Every key that is said to take effect changes a value that packages get.
// test/repository proves that each of those values is read.
func TestEveryWorkingKeySetsAValue(t *testing.T) {
	others := map[string]string{ // values other than the default, where the type does not tell one
		"accel": `"tcg"`, "virtio_fs_cache": `"never"`, "default_memory": "512", "virtio_fs_queue_size": "512",
		"path": `"/x"`, "kernel": `"/x"`, "initrd": `"/x"`, "image": `"/x"`, "firmware": `"/x"`,
		"guest_hook_path": `"/x"`, "seccompsandbox": `"off"`, "virtio_fs_daemon": `"/x"`, "disable_guest_seccomp": "false",
		"annotation_config_folders": `["/x"]`,
	}
	onlyOne := map[string]bool{ // accepted with the one value that there is
		"machine_type": true, "shared_fs": true, "hypervisor_name": true, "agent_name": true, "name": true,
	}
	byType := map[kind]string{boolean: "true", integer: "7", number: "3", text: `"x"`, list: `["x"]`}
	for table, keys := range map[string][]key{"hypervisor.qemu": hypervisorKeys(), "agent.kata": agentKeys(), "runtime": runtimeKeys()} {
		for _, k := range keys {
			value := others[k.name]
			if value == "" {
				value = byType[k.kind]
			}
			got, err := Decode("f", fmt.Sprintf("[%s]\n%s = %s\n", table, k.name, value), big)
			if onlyOne[k.name] {
				if err == nil {
					t.Errorf("%s.%s takes %s", table, k.name, value)
				}
				continue
			}
			if err != nil {
				t.Error(err)
				continue
			}
			if len(got.Warnings) > 0 || cmp.Equal(Default(), got, cmpopts.IgnoreFields(Config{}, "Path", "source", "byPod", "Warnings")) {
				t.Errorf("%s.%s = %s changes nothing; warnings %v", table, k.name, value, got.Warnings)
			}
		}
	}
}

// No key is both among those that take effect and among those that do not, and a
// key that does not never changes a value.
func TestKeysWithoutEffectSetNothing(t *testing.T) {
	values := map[kind][]string{
		boolean: {"true"}, integer: {"1"}, number: {"1.5"}, text: {`"x"`, `"none"`, `"macvtap"`}, list: {`["x"]`}, tables: {"[{}]"},
	}
	for table, keys := range map[string][]key{
		"hypervisor.qemu": hypervisorPending(), "agent.kata": agentPending(), "runtime": runtimePending(),
		"factory": factoryPending(), "netmon": netmonPending(), "image": imagePending(),
	} {
		for _, k := range keys {
			for _, value := range values[k.kind] {
				got, err := Decode("f", fmt.Sprintf("[%s]\n%s = %s\n", table, k.name, value), big)
				if err != nil {
					continue
				}
				got.Path, got.source, got.Warnings = "", source{}, nil
				if !reflect.DeepEqual(got, Default()) {
					t.Errorf("%s.%s = %s has an effect", table, k.name, value)
				}
			}
		}
	}
}
