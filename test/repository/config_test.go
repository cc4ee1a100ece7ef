package repository

import (
	"encoding/json"
	"errors"
	"go/ast"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"kata/host/config"
)

// configPackage is where the operator's configuration is read.
const configPackage = "kata/host/config"

// TestEveryConfiguredValueIsRead finds values of the operator's configuration that
// no package of the host's looks at. A key whose value nobody reads may not be
// documented as one that takes effect: host/config proves that each of those sets
// a value, this test that the value goes somewhere.
func TestEveryConfiguredValueIsRead(t *testing.T) {
	read := configFieldsRead(t)
	for _, s := range []any{config.Machine{}, config.Driver{}, config.FileShare{}, config.Policy{}, config.Agent{}, config.Runtime{}} {
		typ := reflect.TypeOf(s)
		for i := range typ.NumField() {
			field := typ.Name() + "." + typ.Field(i).Name
			switch field {
			case "Driver.Name", "FileShare.Kind": // have one value
				continue
			case "Policy.ConfigFolders": // read by Load itself
				continue
			}
			if !read[field] {
				t.Errorf("no package of the host reads %s of the configuration", field)
			}
		}
	}
}

// configFieldsRead returns the fields of the configuration that the host's
// packages look at, as "Machine.Kernel".
func configFieldsRead(t *testing.T) map[string]bool {
	t.Helper()
	cmd := exec.Command("go", "list", "-tags", "no_grpc", "-deps", "-export", "-json=ImportPath,Dir,Export,GoFiles,Imports", "./host/...")
	cmd.Dir = root(t)
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	exports := make(map[string]string)
	var readers []source
	for d := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p struct {
			source
			Imports []string
		}
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		exports[p.ImportPath] = p.Export
		for _, i := range p.Imports {
			if i == configPackage {
				readers = append(readers, p.source)
			}
		}
	}
	read := make(map[string]bool)
	for _, p := range readers {
		p.exports = exports
		p.fieldsOf(t, configPackage, read)
	}
	return read
}

// fieldsOf notes which fields of the other package's structs this one uses, but
// for those that it only assigns to.
func (p *source) fieldsOf(t *testing.T, other string, read map[string]bool) {
	t.Helper()
	positions := token.NewFileSet()
	var files []*ast.File
	for _, name := range p.GoFiles {
		f, err := parser.ParseFile(positions, filepath.Join(p.Dir, name), nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, f)
	}
	info := &types.Info{Selections: make(map[*ast.SelectorExpr]*types.Selection)}
	check := types.Config{Importer: importer.ForCompiler(positions, "gc", func(path string) (io.ReadCloser, error) {
		return os.Open(p.exports[path])
	})}
	if _, err := check.Check(p.ImportPath, positions, files, info); err != nil {
		t.Fatal(err)
	}
	assigned := make(map[ast.Node]bool)
	for _, f := range files {
		ast.Inspect(f, func(n ast.Node) bool {
			if a, ok := n.(*ast.AssignStmt); ok {
				for _, left := range a.Lhs {
					assigned[left] = true
				}
			}
			return true
		})
	}
	for selector, s := range info.Selections {
		owner, ok := types.Unalias(deref(s.Recv())).(*types.Named)
		if ok && !assigned[selector] && s.Kind() == types.FieldVal && owner.Obj().Pkg() != nil && owner.Obj().Pkg().Path() == other {
			read[owner.Obj().Name()+"."+s.Obj().Name()] = true
		}
	}
}

func deref(t types.Type) types.Type {
	if p, ok := t.Underlying().(*types.Pointer); ok {
		return p.Elem()
	}
	return t
}
