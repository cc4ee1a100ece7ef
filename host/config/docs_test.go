package config

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
)

// Every key of the schema stands in docs/configuration.md, and the ones that
// take effect with their default in a table.
func TestEveryKeyIsDocumented(t *testing.T) {
	text, err := os.ReadFile("../../docs/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	all := slices.Concat(hypervisorKeys(), hypervisorPending(), otherDriverKeys(), agentKeys(), agentPending(),
		memAgentKeys(), runtimeKeys(), runtimePending(), factoryPending(), netmonPending(), imagePending())
	for _, k := range all {
		if !strings.Contains(string(text), "`"+k.name+"`") {
			t.Errorf("docs/configuration.md lacks %s", k.name)
		}
	}
	d := Default()
	for key, value := range map[string]any{
		"machine_type": fmt.Sprintf("%q", d.Driver.MachineType), "accel": fmt.Sprintf("%q", d.Driver.Accel),
		"default_vcpus": d.Machine.VCPUs, "default_memory": d.Machine.MemoryMiB,
		"virtio_fs_cache": fmt.Sprintf("%q", d.FileShare.Cache), "virtio_fs_queue_size": d.FileShare.QueueSize,
		"stop_timeout": d.Driver.StopTimeout.Seconds(), "dial_timeout": d.Agent.DialTimeout.Seconds(),
		"annotation_config_folders": d.Policy.ConfigFolders, "create_container_timeout": d.Runtime.CreateContainerTimeout.Seconds(),
		"kill_timeout": d.Runtime.KillTimeout.Seconds(),
	} {
		row := fmt.Sprintf("| `%s` | ", key)
		_, rest, found := strings.Cut(string(text), row)
		columns := strings.Split(rest, " | ")
		if want := fmt.Sprintf("`%v`", value); !found || len(columns) < 2 || columns[1] != want {
			t.Errorf("docs/configuration.md does not give %s the default %s", key, want)
		}
	}
	for _, p := range slices.Concat(SearchPaths(), hypervisorSearch(), virtioFSDaemonSearch()) {
		if !strings.Contains(string(text), "`"+p+"`") {
			t.Errorf("docs/configuration.md lacks %s", p)
		}
	}
}
