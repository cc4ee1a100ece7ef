package bootstrap

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/opencontainers/runtime-spec/specs-go/features"
)

func TestFeaturesAreTheStructureOfTheSpecification(t *testing.T) {
	packed, err := packedFeatures()
	if err != nil {
		t.Fatal(err)
	}
	got := new(features.Features)
	if err := json.Unmarshal(packed.Value, got); err != nil {
		t.Fatal(err)
	}
	if packed.TypeUrl != featuresType || !slices.Contains(got.MountOptions, "rro") || !slices.Contains(got.Hooks, "startContainer") || !*got.Linux.Cgroup.V2 {
		t.Errorf("%s %s", packed.TypeUrl, packed.Value)
	}
	if got.OCIVersionMax != specs.Version {
		t.Errorf("the newest version is %s, the specification in use is %s", got.OCIVersionMax, specs.Version)
	}
}

// TestMountOptionsAreThoseThatTheAgentKnows reads the agent's table: the host may not
// import it.
func TestMountOptionsAreThoseThatTheAgentKnows(t *testing.T) {
	source, err := os.ReadFile(filepath.Join("..", "..", "..", "guest", "storage", "mount", "options.go"))
	if err != nil {
		t.Fatal(err)
	}
	options := mountOptions()
	for _, m := range regexp.MustCompile(`(?m)^\t"([a-z]+)": +(\{bits|unix\.MS_)`).FindAllSubmatch(source, -1) {
		if !slices.Contains(options, string(m[1])) {
			t.Errorf("%s is missing", m[1])
		}
	}
	for _, option := range options {
		name, _ := regexp.Compile(`"r?` + regexp.QuoteMeta(option) + `"|"` + regexp.QuoteMeta(option[1:]) + `"`)
		if !name.Match(source) {
			t.Errorf("the agent does not know %s", option)
		}
	}
}
