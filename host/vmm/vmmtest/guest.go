package vmmtest

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// Ready is what the test guest prints when its init runs.
const Ready = "test guest is up"

// KernelEnv names the guest kernel for tests that boot one.
const KernelEnv = "KATA_TEST_KERNEL"

// Kernel returns the guest kernel to test with. A test that needs one and does
// not get it fails: it must not pass by doing nothing.
func Kernel(t testing.TB) string {
	t.Helper()
	path := os.Getenv(KernelEnv)
	if path == "" {
		t.Fatalf("%s is not set: it must name a guest kernel (make guest builds one)", KernelEnv)
	}
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("%s: %v", KernelEnv, err)
	}
	return path
}

// Initrd builds a Go package as a static binary and returns the path of an
// initrd that holds it as /init and nothing else.
func Initrd(t testing.TB, pkg string) string {
	t.Helper()
	dir := t.TempDir()
	binary := filepath.Join(dir, "init")
	build := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", binary, pkg)
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build %s: %v\n%s", pkg, err, out)
	}
	content, err := os.ReadFile(binary)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "initrd")
	if err := os.WriteFile(path, Archive(File{"init", 0o100755, content}), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestInit is the package of the init that the conformance suite boots.
const TestInit = "kata/host/vmm/vmmtest/testinit"

// File is one entry of an initrd.
type File struct {
	Name    string
	Mode    uint32 // with the file type, as in st_mode
	Content []byte
}

// Archive returns files as an uncompressed cpio archive in the "newc" format,
// with the console device that the kernel opens for init.
func Archive(files ...File) []byte {
	var out bytes.Buffer
	entry := func(number int, f File, major, minor int) {
		fmt.Fprintf(&out, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x",
			number, f.Mode, 0, 0, 1, 0, len(f.Content), 0, 0, major, minor, len(f.Name)+1, 0)
		out.WriteString(f.Name)
		out.WriteByte(0)
		pad(&out)
		out.Write(f.Content)
		pad(&out)
	}
	entry(1, File{Name: "dev", Mode: 0o040755}, 0, 0)
	entry(2, File{Name: "dev/console", Mode: 0o020600}, 5, 1)
	for i, f := range files {
		entry(3+i, f, 0, 0)
	}
	entry(0, File{Name: "TRAILER!!!"}, 0, 0)
	return out.Bytes()
}

func pad(out *bytes.Buffer) {
	for out.Len()%4 != 0 {
		out.WriteByte(0)
	}
}
