package seccomp

import (
	"encoding/json"
	"math/rand/v2"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// FuzzCompile gives Compile profiles as config.json has them; what it accepts
// must be a program that ends for every call.
func FuzzCompile(f *testing.F) {
	for seed := range uint64(20) {
		text, err := json.Marshal(randomProfile(rand.New(rand.NewPCG(seed, 2))))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	f.Add([]byte(`{"defaultAction":"SCMP_ACT_ERRNO","defaultErrnoRet":38,"architectures":["SCMP_ARCH_X86","SCMP_ARCH_ARM"],` +
		`"flags":["SECCOMP_FILTER_FLAG_LOG"],"listenerPath":"/l","listenerMetadata":"m","syscalls":[{"names":["open","nonsense"],` +
		`"action":"SCMP_ACT_NOTIFY"},{"names":["clone"],"action":"SCMP_ACT_ALLOW","args":[{"index":0,"value":1,"valueTwo":2,"op":"SCMP_CMP_MASKED_EQ"}]}]}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		var profile specs.LinuxSeccomp
		if json.Unmarshal(text, &profile) != nil {
			return
		}
		compiled, err := Compile(&profile)
		if err != nil || len(compiled.Filters) == 0 {
			return
		}
		m, says := newMachine(t, compiled.Filters[0]), newModel(&profile)
		probe(&profile, func(c call) {
			if got, want := m.run(t, c), says.run(c); got != want {
				t.Fatalf("%+v: %#x, not %#x", c, got, want)
			}
		})
	})
}
