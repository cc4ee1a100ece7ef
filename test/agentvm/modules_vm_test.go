//go:build vm

package agentvm

import (
	"strings"
	"testing"

	"kata/api/agentpb"
	"kata/api/ttrpc"
)

// modules are asked for by two tests: with parameters, with what they need, built in
// and loaded already.
func modules() []*agentpb.KernelModule {
	return []*agentpb.KernelModule{
		{Name: "dummy", Parameters: []string{"numdummies=3"}}, {Name: "iptable-nat"}, {Name: "iptable_filter"}, {Name: "xt_tcpudp"},
		{Name: "ext4"}, {Name: "virtio_net"},
	}
}

// TestKernelModulesAreLoadedByTheAgent boots the distribution's kernel, which is
// nothing without its modules, and holds the agent to its budgets.
func TestKernelModulesAreLoadedByTheAgent(t *testing.T) {
	v := Boot(t, Options{PackageKernel: true})
	for name, want := range map[string]string{
		"floppy":   `kernel_modules "floppy": neither the guest's image nor its kernel has it`,
		"../dummy": `kernel_modules "../dummy": neither`,
		"":         `kernel_modules "": neither`,
	} {
		_, err := v.Agent.CreateSandbox(t.Context(), &agentpb.CreateSandboxRequest{SandboxId: "pod", KernelModules: []*agentpb.KernelModule{{Name: name}}})
		if ttrpc.CodeOf(err) != ttrpc.InvalidArgument || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %s", name, err, want)
		}
	}
	if _, err := v.Agent.CreateSandbox(t.Context(), &agentpb.CreateSandboxRequest{SandboxId: "pod", KernelModules: modules()}); err != nil {
		t.Fatal(err)
	}
	if _, err := v.Agent.SetIPTables(t.Context(), &agentpb.SetIPTablesRequest{Data: []byte(rules)}); err != nil {
		t.Error(err)
	}
	probe := v.Probe() // a container: by then the agent has done all it does at boot
	links, err := v.Agent.ListInterfaces(t.Context(), &agentpb.ListInterfacesRequest{})
	if err != nil {
		t.Fatal(err)
	}
	dummies := 0
	var names []string
	for _, link := range links.Interfaces {
		names = append(names, link.Name)
		if strings.HasPrefix(link.Name, "dummy") {
			dummies++
		}
	}
	if dummies != 3 {
		t.Errorf("%d dummy interfaces, 3 were asked for: %q", dummies, names)
	}
	idle := probe.Idle()
	t.Logf("idle: %v", idle)
	if idle.Anonymous > maxAnonymous || idle.Resident > maxResident {
		t.Errorf("the agent is beyond its budget of %d bytes anonymous, %d resident: %v", maxAnonymous, maxResident, idle)
	}
	if text := strings.TrimSpace(probe.File("/proc/sys/kernel/modules_disabled")); text != "1" {
		t.Errorf("modules_disabled is %q", text)
	}
	if text := probe.File("/proc/1/root/lib/modules/kata.list"); !strings.HasPrefix(text, "boot ") {
		t.Errorf("the list of modules is %.40q", text)
	}
	if text := probe.File("/proc/1/root/lib/modules/nf_tables.ko"); strings.TrimSpace(text) != "" {
		t.Errorf("a module that nobody asked for is still memory: %d bytes", len(text))
	}
}

// TestThePurposeBuiltKernelTakesNoModules: all it has is built in.
func TestThePurposeBuiltKernelTakesNoModules(t *testing.T) {
	v := Boot(t, Options{})
	_, err := v.Agent.CreateSandbox(t.Context(), &agentpb.CreateSandboxRequest{SandboxId: "pod", KernelModules: []*agentpb.KernelModule{{Name: "floppy"}}})
	if ttrpc.CodeOf(err) != ttrpc.InvalidArgument || !strings.Contains(err.Error(), `kernel_modules "floppy"`) {
		t.Error(err)
	}
	v.Sandbox()
	if text := strings.TrimSpace(v.Probe().File("/proc/sys/kernel/modules_disabled")); text != "1" {
		t.Errorf("modules_disabled is %q", text)
	}
}
