package pod

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/runtime-spec/specs-go"
)

func TestFromBundle(t *testing.T) {
	score := -998
	scored := &specs.Process{OOMScoreAdj: &score}
	size := func(quota, period, memory string) map[string]string {
		return map[string]string{cpuQuota: quota, cpuPeriod: period, memoryLimit: memory}
	}
	for _, tt := range []struct {
		name string
		spec specs.Spec
		want Spec
	}{
		{"nothing", specs.Spec{}, Spec{}},
		{"a score for the killer", specs.Spec{Process: scored}, Spec{OOMScoreAdj: -998}},
		{
			"a pause container's score",
			specs.Spec{Process: scored, Annotations: map[string]string{criType: podSandbox}},
			Spec{Annotations: map[string]string{criType: podSandbox}},
		},
		{
			"a bundle of ctr",
			specs.Spec{Hostname: "web", Linux: &specs.Linux{Namespaces: []specs.LinuxNamespace{{Type: specs.PIDNamespace}, {Type: specs.NetworkNamespace}}}},
			Spec{Hostname: "web", Namespaces: []specs.LinuxNamespace{{Type: specs.PIDNamespace}, {Type: specs.NetworkNamespace}}},
		},
		{
			"a pod with a network and a size",
			specs.Spec{
				Annotations: size("150000", "100000", "134217728"),
				Linux:       &specs.Linux{Namespaces: []specs.LinuxNamespace{{Type: specs.NetworkNamespace, Path: "/run/netns/a"}}},
			},
			Spec{
				NetnsPath: "/run/netns/a", Annotations: size("150000", "100000", "134217728"),
				Size:       Size{MilliCPUs: 1500, MemoryBytes: 128 << 20},
				Namespaces: []specs.LinuxNamespace{{Type: specs.NetworkNamespace, Path: "/run/netns/a"}},
			},
		},
		{"a third of a CPU is rounded up", specs.Spec{Annotations: size("33333", "100000", "0")}, Spec{Annotations: size("33333", "100000", "0"), Size: Size{MilliCPUs: 334}}},
		{"no limits", specs.Spec{Annotations: size("-1", "100000", "-1")}, Spec{Annotations: size("-1", "100000", "-1")}},
		{"a period of nothing", specs.Spec{Annotations: size("1", "0", "x")}, Spec{Annotations: size("1", "0", "x")}},
		{"a quota without sense", specs.Spec{Annotations: size("9223372036854775807", "1", "")}, Spec{Annotations: size("9223372036854775807", "1", "")}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, FromBundle(&tt.spec)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestResolverLines(t *testing.T) {
	d := DNS{Servers: []string{"10.0.0.1", "fd00::1"}, Searches: []string{"a.b", "b"}, Options: []string{"ndots:5"}}
	want := []string{"nameserver 10.0.0.1", "nameserver fd00::1", "search a.b b", "options ndots:5"}
	if diff := cmp.Diff(want, d.Lines()); diff != "" {
		t.Error(diff)
	}
	if got := (DNS{}).Lines(); got != nil {
		t.Errorf("an empty one gives %q", got)
	}
}
