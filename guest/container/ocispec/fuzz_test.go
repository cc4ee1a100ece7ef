package ocispec

import (
	"testing"

	"kata/api/ocipb"
	"kata/guest/container/plan"
	"kata/guest/fault"
)

// No spec, whatever it holds, makes the agent panic before it is refused or
// handed to a stage.
func FuzzParse(f *testing.F) {
	for _, change := range []func(*ocipb.Spec){
		func(*ocipb.Spec) {},
		func(s *ocipb.Spec) { s.Linux = nil },
		func(s *ocipb.Spec) { s.Process.Rlimits = []*ocipb.POSIXRlimit{{Type: "RLIMIT_CORE"}} },
		func(s *ocipb.Spec) { s.Linux.Sysctl = map[string]string{"net.x": "1"} },
		func(s *ocipb.Spec) { s.Linux.Devices = []*ocipb.LinuxDevice{{Path: "/dev/x", Type: "c"}} },
	} {
		spec := defaultSpec()
		change(spec)
		data, err := spec.MarshalVT()
		if err != nil {
			f.Fatal(err)
		}
		f.Add("id", data)
	}
	f.Fuzz(func(t *testing.T, id string, data []byte) {
		spec := &ocipb.Spec{}
		if spec.UnmarshalVT(data) != nil {
			return
		}
		parsed, err := Parse(id, spec, Options{})
		if err != nil {
			if _, ok := err.(*fault.Error); !ok {
				t.Errorf("error %T", err)
			}
			return
		}
		encoded, err := parsed.Plan.Marshal()
		if err != nil {
			return // too long
		}
		var decoded plan.Plan
		if err := decoded.Unmarshal(encoded); err != nil {
			t.Error(err)
		}
	})
}
