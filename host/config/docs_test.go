package config

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
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
	tables := documentedTables(string(text))
	for table, keys := range map[string][]key{"hypervisor.qemu": hypervisorKeys(), "agent.kata": agentKeys(), "runtime": runtimeKeys()} {
		got, want := slices.Sorted(slices.Values(tables[table])), slices.Sorted(slices.Values(names(keys)))
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("docs/configuration.md's table of [%s] is not the list of keys that take effect:\n%s", table, diff)
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

// documentedTables returns the keys that stand in the tables of keys which take
// effect, by the name of the table in the file.
func documentedTables(text string) map[string][]string {
	tables := make(map[string][]string)
	section := ""
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "##") { // a heading below it ends a table, too
			section = strings.Trim(line, "#`[] \n")
		}
		if name, ok := strings.CutPrefix(line, "| `"); ok {
			name, _, _ = strings.Cut(name, "`")
			tables[section] = append(tables[section], name)
		}
	}
	return tables
}
