package repository

import (
	"encoding/json"
	"errors"
	"go/ast"
	"go/constant"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestTheAgentFormatsWhatItCan finds the operands that kata/lib/fmt, which has no
// reflection to fall back on, cannot write: what is no text, number, truth value,
// error or list of these. A value with a String method has to be asked for it:
// called through an interface, String is kept for every type there is.
func TestTheAgentFormatsWhatItCan(t *testing.T) {
	for _, p := range agentPackages(t) {
		p.check(t)
	}
}

// source is a package of this module as go list describes it.
type source struct {
	ImportPath, Dir, Export string
	Standard                bool
	GoFiles                 []string

	exports map[string]string // of all packages, by import path
}

// agentPackages returns the packages of this module that the agent links.
func agentPackages(t *testing.T) []source {
	t.Helper()
	cmd := exec.Command("go", "list", "-tags", "no_grpc", "-deps", "-export", "-json=ImportPath,Dir,Export,Standard,GoFiles", "./cmd/kata-agent")
	cmd.Dir = root(t)
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	exports := make(map[string]string)
	var own []source
	for d := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p source
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			return own
		} else if err != nil {
			t.Fatal(err)
		}
		exports[p.ImportPath] = p.Export
		if p.exports = exports; strings.HasPrefix(p.ImportPath, "kata/") && p.ImportPath != "kata/lib/fmt" {
			own = append(own, p)
		}
	}
}

// check looks at every call of a package's that formats.
func (p *source) check(t *testing.T) {
	t.Helper()
	positions := token.NewFileSet()
	var files []*ast.File
	for _, name := range p.GoFiles {
		f, err := parser.ParseFile(positions, filepath.Join(p.Dir, name), nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, i := range f.Imports {
			if i.Path.Value == `"fmt"` {
				t.Errorf("%s imports fmt, which is 280 KB of the agent; kata/lib/fmt is what it needs of it", positions.Position(f.Pos()))
			}
		}
		files = append(files, f)
	}
	info := &types.Info{Types: make(map[ast.Expr]types.TypeAndValue), Uses: make(map[*ast.Ident]types.Object)}
	config := types.Config{Importer: importer.ForCompiler(positions, "gc", func(path string) (io.ReadCloser, error) {
		return os.Open(p.exports[path])
	})}
	if _, err := config.Check(p.ImportPath, positions, files, info); err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		ast.Inspect(f, func(n ast.Node) bool {
			if call, ok := n.(*ast.CallExpr); ok {
				checkCall(t, positions, info, call)
			}
			return true
		})
	}
}

// checkCall looks at the operands of a call that formats or logs.
func checkCall(t *testing.T, positions *token.FileSet, info *types.Info, call *ast.CallExpr) {
	t.Helper()
	first := operands(info, call)
	if first < 0 || call.Ellipsis.IsValid() {
		return
	}
	var verbs []byte
	if first > 0 {
		if value := info.Types[call.Args[first-1]].Value; value != nil && value.Kind() == constant.String {
			verbs = verbsOf(constant.StringVal(value))
		}
	}
	for i, arg := range call.Args[min(first, len(call.Args)):] {
		number := i < len(verbs) && strings.IndexByte("dxocq", verbs[i]) >= 0
		if typ := info.Types[arg].Type; !formats(typ, number) {
			t.Errorf("%s: an operand of type %s cannot be formatted", positions.Position(arg.Pos()), typ)
		}
	}
}

// operands returns the index of the first operand of a call that formats or logs,
// or -1: what takes "...any" last and is the module's own.
func operands(info *types.Info, call *ast.CallExpr) int {
	signature, ok := info.Types[call.Fun].Type.(*types.Signature)
	if !ok || !signature.Variadic() {
		return -1
	}
	last, ok := signature.Params().At(signature.Params().Len() - 1).Type().(*types.Slice)
	if !ok || !types.IsInterface(last.Elem()) || !isAny(last.Elem()) {
		return -1
	}
	return signature.Params().Len() - 1
}

// verbsOf returns the verbs of a format, one an operand.
func verbsOf(format string) []byte {
	var verbs []byte
	for i := 0; i < len(format); i++ {
		if format[i] != '%' {
			continue
		}
		for i++; i < len(format) && strings.IndexByte("-+# 0123456789.", format[i]) >= 0; i++ {
		}
		if i < len(format) && format[i] != '%' {
			verbs = append(verbs, format[i])
		}
	}
	return verbs
}

// formats reports whether a value of a type can be written, as a number if the
// verb says so.
func formats(t types.Type, number bool) bool {
	if types.Implements(t, types.Universe.Lookup("error").Type().Underlying().(*types.Interface)) {
		return true
	}
	if types.IsInterface(t) {
		return isAny(t)
	}
	if t.String() == "time.Duration" {
		return true
	}
	if text := types.NewMethodSet(t).Lookup(nil, "String"); text != nil && !number {
		return false
	}
	switch u := t.Underlying().(type) {
	case *types.Basic:
		return u.Info()&(types.IsString|types.IsInteger|types.IsBoolean|types.IsUntyped) != 0
	case *types.Slice:
		switch u.Elem().String() {
		case "byte", "string", "int", "uint32", "error", "any":
			return true
		}
	}
	return false
}

// isAny reports whether t is an interface without methods and constraints, of
// whose values nothing is known.
func isAny(t types.Type) bool {
	i, ok := t.Underlying().(*types.Interface)
	return ok && i.Empty()
}
