package repository

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"kata/api"
)

// TestHostAndGuestAgreeInOnePlace finds paths, tags and ports that host and guest
// have to agree on and that somebody has written down beside package api.
func TestHostAndGuestAgreeInOnePlace(t *testing.T) {
	agreed := map[string]bool{
		strconv.Quote(api.ShareTag): true, strconv.Quote(api.GuestRoot): true,
		strconv.Quote(api.GuestShare): true, strconv.Quote(api.GuestShare + "/"): true, strconv.Quote(api.GuestShm): true,
		strconv.Quote(api.HelperDir): true, strconv.Quote(api.HelperDir[1:]): true,
	}
	ports := map[string]bool{}
	for _, p := range []int{api.PortAgent, api.PortConsole, api.PortStreams, api.PortReady} {
		ports[strconv.Itoa(p)] = true
	}
	cmd := exec.Command("git", "ls-files", "*.go")
	cmd.Dir = root(t)
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("git ls-files: %v", err)
	}
	for _, name := range strings.Fields(string(out)) {
		if strings.HasPrefix(name, "api/") || strings.HasSuffix(name, "_test.go") {
			continue
		}
		positions := token.NewFileSet()
		file, err := parser.ParseFile(positions, filepath.Join(root(t), name), nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(file, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.BasicLit:
				if agreed[n.Value] {
					t.Errorf("%s: %s is a constant of package api", positions.Position(n.Pos()), n.Value)
				}
			case *ast.ValueSpec:
				for i, v := range n.Values {
					lit, ok := v.(*ast.BasicLit)
					if ok && ports[lit.Value] && strings.Contains(strings.ToLower(n.Names[i].Name), "port") {
						t.Errorf("%s: port %s is a constant of package api", positions.Position(n.Pos()), lit.Value)
					}
				}
			}
			return true
		})
	}
}
