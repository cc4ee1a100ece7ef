package container

import (
	"testing"

	"kata/api/ocipb"
)

// No spec, whatever it holds, makes the agent panic before it is refused or
// handed to a stage.
func FuzzValidate(f *testing.F) {
	for _, change := range []func(*ocipb.Spec){
		func(*ocipb.Spec) {},
		func(s *ocipb.Spec) { s.Linux = nil },
		func(s *ocipb.Spec) { s.Process.Rlimits = []*ocipb.POSIXRlimit{{Type: "RLIMIT_CORE"}} },
		func(s *ocipb.Spec) { s.Linux.Sysctl = map[string]string{"net.x": "1"} },
		func(s *ocipb.Spec) { s.Linux.Devices = []*ocipb.LinuxDevice{{Path: "/dev/x", Type: "c"}} },
	} {
		spec := defaultSpec("/rootfs", "true")
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
		if err := Validate(id, spec); err != nil {
			if _, ok := err.(*SpecError); !ok {
				t.Errorf("error %T", err)
			}
			return
		}
		_ = cloneFlags(spec)
		_ = withoutPIDNamespace(spec)
		(&Runtime{}).warn(id, spec)
	})
}
