package ocispec

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"kata/api/ocipb"
	"kata/guest/container/capability"
	"kata/guest/container/plan"
)

func TestCapabilities(t *testing.T) {
	sets, unknown := parseCapabilities(&ocipb.LinuxCapabilities{
		Bounding:    []string{"CAP_CHOWN", "CAP_KILL", "CAP_FUTURE"},
		Effective:   []string{"CAP_CHOWN"},
		Inheritable: []string{"CAP_CHOWN"},
		Permitted:   []string{"CAP_CHOWN", "CAP_KILL"},
		Ambient:     []string{"CAP_CHOWN", "CAP_KILL"},
	})
	want := capability.Sets{Bounding: 1<<0 | 1<<5, Effective: 1, Inheritable: 1, Permitted: 1<<0 | 1<<5, Ambient: 1}
	if diff := cmp.Diff(want, sets); diff != "" {
		t.Error(diff)
	}
	if !slices.Equal(unknown, []string{"CAP_FUTURE"}) {
		t.Errorf("unknown %v", unknown)
	}
	if sets, unknown := parseCapabilities(nil); sets != (capability.Sets{}) || unknown != nil {
		t.Errorf("nil gives %+v, %v", sets, unknown)
	}
}

// TestWhatIsNotSaid: an empty process gets what runc gives it.
func TestWhatIsNotSaid(t *testing.T) {
	got, err := ParseProcess(&ocipb.Process{Args: []string{"sh"}, OOMScoreAdj: 5, OOMScoreAdjUnset: true}, plan.Names{User: "ann"})
	if err != nil {
		t.Fatal(err)
	}
	want := plan.Process{Args: []string{"sh"}, User: plan.User{Umask: 0o022}, Names: plan.Names{User: "ann"}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// TestANameIsOfTheContainersOwn: without namespaces it would be the guest's.
func TestANameIsOfTheContainersOwn(t *testing.T) {
	spec := defaultSpec()
	spec.Linux, spec.Hostname = nil, "x"
	if _, err := Parse("id", spec, Options{SharesPIDs: true}); err == nil || err.Error() != `hostname "x" needs a uts namespace of the container's own` {
		t.Error(err)
	}
}

// TestAffinityIsTwoSets: of an exec's two lists one does not stand for the other.
func TestAffinityIsTwoSets(t *testing.T) {
	for _, lists := range [][2]string{{"0-1", "1"}, {"1", "1"}, {"", "1"}, {"1", ""}} {
		p, err := ParseProcess(&ocipb.Process{Args: []string{"sh"}, ExecCPUAffinity: &ocipb.CPUAffinity{Initial: lists[0], Final: lists[1]}}, plan.Names{})
		if err != nil {
			t.Fatal(err)
		}
		var got [2]string
		if p.Initial != nil {
			got[0] = p.Initial.String()
		}
		if p.Final != nil {
			got[1] = p.Final.String()
		}
		if got != lists {
			t.Errorf("%q became %q", lists, got)
		}
	}
}
