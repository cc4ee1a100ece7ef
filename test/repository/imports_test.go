// Package repository holds tests about the repository as a whole: which
// package may import which, what the agent may link and how big it may be,
// and that the documents point to things that exist.
package repository

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// listed is what `go list -deps -json` says about a package.
type listed struct {
	ImportPath string
	Standard   bool
	DepOnly    bool
	Deps       []string
}

// list returns the packages that match the patterns and all they depend on.
func list(t *testing.T, patterns ...string) []listed {
	t.Helper()
	args := append([]string{"list", "-tags", "no_grpc", "-deps", "-json=ImportPath,Standard,DepOnly,Deps"}, patterns...)
	cmd := exec.Command("go", args...)
	cmd.Dir = root(t)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go %s: %v\n%s", strings.Join(args, " "), err, stderr.String())
	}
	var packages []listed
	for d := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p listed
		err := d.Decode(&p)
		if errors.Is(err, io.EOF) {
			return packages
		}
		if err != nil {
			t.Fatal(err)
		}
		packages = append(packages, p)
	}
}

// in says whether a package lies in a folder of this module.
func in(path, folder string) bool {
	return path == "kata/"+folder || strings.HasPrefix(path, "kata/"+folder+"/")
}

func TestDependenciesPointOneWay(t *testing.T) {
	rules := []struct {
		from    []string // folders
		banned  []string
		because string
	}{
		{
			from:    []string{"host", "cmd/containerd-shim-kata-v2", "cmd/kata-monitor"},
			banned:  []string{"guest", "cli"},
			because: "the host knows the guest by the wire only, so that either can be replaced, by upstream's too",
		},
		{
			from:    []string{"cli", "cmd/kata-runtime", "cmd/kata-agent-ctl"},
			banned:  []string{"guest"},
			because: "what people type at a node speaks to guests by the wire, as the host does",
		},
		{
			from:    []string{"guest", "cmd/kata-agent"},
			banned:  []string{"host", "cli"},
			because: "the guest knows the host by the wire only, and its binary carries nothing of the host's",
		},
		{
			from:    []string{"api"},
			banned:  []string{"host", "guest", "cli", "image", "monitor"},
			because: "the wire is what both sides agree on; it knows neither",
		},
		{
			from:    []string{"lib"},
			banned:  []string{"api", "host", "guest", "cli", "image", "monitor"},
			because: "small libraries know nothing of the product",
		},
		{
			from:    []string{"image"},
			banned:  []string{"host", "guest"},
			because: "the image builder packs files; what is in them is not its business",
		},
		{
			from:    []string{"host", "guest", "api", "lib", "cli", "image", "monitor", "cmd"},
			banned:  []string{"test", "tools"},
			because: "the product does not ship its tests",
		},
	}
	packages := list(t, "./...")
	for _, rule := range rules {
		for _, p := range packages {
			if !inAny(p.ImportPath, rule.from) {
				continue
			}
			for _, dep := range p.Deps {
				if inAny(dep, rule.banned) {
					t.Errorf("%s depends on %s: %s", p.ImportPath, dep, rule.because)
				}
			}
		}
	}
}

// TestASpecIsReadOnce holds the seam between the container runtime and its stage.
func TestASpecIsReadOnce(t *testing.T) {
	const dir = "kata/guest/container"
	banned := map[string]string{
		dir:                        dir + "/stage", // the runtime starts the stage's program and does not need its code
		dir + "/stage":             "kata/api/ocipb",
		dir + "/rootfs":            "kata/api/ocipb",
		dir + "/apply":             "kata/api/ocipb",
		dir + "/plan":              "kata/api/ocipb",
		dir + "/hooks":             "kata/api/ocipb",
		dir + "/capability":        "kata/api/ocipb",
		"kata/guest/storage/mount": "kata/api/ocipb",
	}
	for _, p := range list(t, "./guest/...") {
		want, ok := banned[p.ImportPath]
		delete(banned, p.ImportPath)
		if ok && slices.Contains(p.Deps, want) {
			t.Errorf("%s depends on %s: package ocispec makes a plan of a spec, once, and nobody looks at the spec after it", p.ImportPath, want)
		}
	}
	for path := range banned {
		t.Errorf("there is no package %s", path)
	}
}

// TestTheAgentsErrorsGetTheirCodesInOnePlace: everywhere else they are of a kind
// (package fault), which the parts of the guest can know.
func TestTheAgentsErrorsGetTheirCodesInOnePlace(t *testing.T) {
	const place = "guest/agent/agent.go"
	cmd := exec.Command("git", "grep", "-l", `ttrpc\.Errorf`, "--", "guest/*.go", "cmd/kata-agent/*.go", "cmd/kata-guest-*/*.go", ":!*_test.go")
	cmd.Dir = root(t)
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("git grep: %v", err)
	}
	if got := strings.TrimSpace(string(out)); got != place {
		t.Errorf("codes are given in %q, not in %s alone", got, place)
	}
}

func inAny(path string, folders []string) bool {
	for _, f := range folders {
		if in(path, f) {
			return true
		}
	}
	return false
}

// agentMayLink is every package from outside this module and the standard
// library that the agent links, with the reason.
var agentMayLink = map[string]string{
	"golang.org/x/sys/unix": "system calls and their constants; what is not called is not linked",
}

// agentMayNotLink are packages of the standard library that would cost the
// agent more than it gains.
var agentMayNotLink = map[string]string{
	"net":           "0.9 MB and a poller for what are two vsock listeners: guest/agent/vsock",
	"net/http":      "3.5 MB, and nobody speaks HTTP in the guest",
	"encoding/json": "reflection over every type; specs arrive as protobuf",
	"encoding/gob":  "reflection over every type",
	"encoding/xml":  "reflection over every type",
	"crypto/tls":    "vsock reaches nobody but the host",
	"os/exec":       "there is nothing to look up in a PATH; guest/container starts processes",
	"os/user":       "users are numbers from the spec",
	"log":           "guest/agent/log writes the lines",
	"log/slog":      "0.5 MB through reflection and encoding/json; guest/agent/log writes the lines",
	"text/template": "reflection defeats the linker's removal of dead methods",
	"html/template": "reflection defeats the linker's removal of dead methods",
	"regexp":        "0.3 MB; names are matched by hand",
	"testing":       "tests stay out of the product",
	"plugin":        "a static binary loads nothing",
	"C":             "the guest has no libc",
}

func TestAgentLinksOnlyWhatItMay(t *testing.T) {
	for _, p := range list(t, "./cmd/kata-agent") {
		if p.Standard {
			if reason, banned := agentMayNotLink[p.ImportPath]; banned {
				t.Errorf("the agent links %s: %s", p.ImportPath, reason)
			}
			continue
		}
		if in(p.ImportPath, "guest") || in(p.ImportPath, "api") || in(p.ImportPath, "lib") || in(p.ImportPath, "cmd/kata-agent") {
			continue
		}
		if strings.HasPrefix(p.ImportPath, "vendor/") {
			continue // the standard library's own copies
		}
		if _, ok := agentMayLink[p.ImportPath]; !ok {
			t.Errorf("the agent links %s, which is not among those it may", p.ImportPath)
		}
	}
}
