package distro

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"kata/image/cache"
	"kata/image/kernel"
)

func TestVmlinuxOfEveryCompression(t *testing.T) {
	want := fakeKernel(true)
	for name, payload := range map[string][]byte{
		"gzip": gzipped(t, want),
		"lz4":  pack(t, want, "lz4", "-l", "-9", "-c"),
		"xz":   pack(t, want, "xz", "--check=crc32", "-c"),
		"lzma": pack(t, want, "xz", "--format=lzma", "-c"),
	} {
		t.Run(name, func(t *testing.T) {
			got, err := Vmlinux(t.Context(), fakeBzImage(payload, len(want)))
			if err != nil || !bytes.Equal(got, want) {
				t.Errorf("%d bytes of %d, %v", len(got), len(want), err)
			}
		})
	}
	if got, err := Vmlinux(t.Context(), want); err != nil || !bytes.Equal(got, want) {
		t.Errorf("an ELF kernel: %v", err)
	}
	// More than one block of lz4's.
	big := append(fakeKernel(true), bytes.Repeat([]byte("0123456789abcdefghi"), 1<<20)...)
	if got, err := Vmlinux(t.Context(), fakeBzImage(pack(t, big, "lz4", "-l", "-c"), len(big))); err != nil || !bytes.Equal(got, big) {
		t.Errorf("a big kernel: %v", err)
	}
}

func TestWhatIsNoKernel(t *testing.T) {
	good := fakeKernel(true)
	lz4 := pack(t, good, "lz4", "-l", "-c")
	for name, tt := range map[string]struct {
		image []byte
		want  string
	}{
		"nothing":                     {nil, "neither a bzImage nor an ELF kernel"},
		"a text":                      {bytes.Repeat([]byte("text "), 1000), "neither a bzImage nor an ELF kernel"},
		"a kernel that is cut":        {fakeBzImage(lz4, len(good))[:1560], "the bzImage's payload is beyond its end"},
		"an unknown compression":      {fakeBzImage([]byte("unknown..."), 10), "unpack the bzImage's payload: it begins with 756e6b6e"},
		"a wrong size":                {fakeBzImage(lz4, len(good)+1), "unpack the bzImage's payload: "},
		"a damaged payload":           {fakeBzImage(append(lz4[:100:100], lz4[200:]...), len(good)), "unpack the bzImage's payload: corrupt LZ4 data"},
		"a kernel without PVH":        {fakeBzImage(gzipped(t, fakeKernel(false)), len(good)), "the kernel has no PVH entry point (CONFIG_PVH)"},
		"a payload that is no kernel": {fakeBzImage(gzipped(t, []byte("text")), 4), "the kernel is no ELF file"},
	} {
		if _, err := Vmlinux(t.Context(), tt.image); err == nil || !strings.HasPrefix(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %s", name, err, tt.want)
		}
	}
}

func FuzzVmlinux(f *testing.F) {
	f.Add(fakeBzImage([]byte("\x02\x21\x4c\x18\x05\x00\x00\x00\x40abcd"), 4))
	f.Fuzz(func(t *testing.T, image []byte) {
		_, _ = Vmlinux(t.Context(), image)
	})
}

// modulesOf returns the list of an archive.
func modulesOf(t *testing.T, archive []byte) string {
	t.Helper()
	cmd := exec.Command("cpio", "-i", "--quiet", "--to-stdout", "lib/modules/kata.list")
	cmd.Stdin = bytes.NewReader(archive)
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

const wantList = `boot virtio_ring
boot virtio virtio_ring
boot virtio_pci virtio_ring virtio
boot vsock
boot vmw_vsock_virtio_transport vsock virtio_ring
boot fuse
boot virtiofs fuse
boot overlay
more libcrc32c
more dummy libcrc32c
`

func TestModulesAreInLoadOrder(t *testing.T) {
	tree, err := openTree(aDistribution(t, t.TempDir()))
	if err != nil {
		t.Fatal(err)
	}
	a, err := archive(t.Context(), tree, []string{"floppy", "dummy"})
	if err != nil {
		t.Fatal(err)
	}
	want := wantList + "more disk_generic\nmore floppy disk_generic\nbuilt crc32c_generic ext4\n"
	if diff := cmp.Diff(want, modulesOf(t, a)); diff != "" {
		t.Error(diff)
	}
	if bytes.Contains(a, []byte("signature")) || !bytes.Contains(a, []byte("depends=virtio_ring")) {
		t.Error("the modules are signed or packed")
	}
	if _, err := archive(t.Context(), tree, []string{"nonesuch"}); err == nil || !strings.Contains(err.Error(), "there is no kernel module nonesuch in ") {
		t.Errorf("one that is not there: %v", err)
	}
	if err := os.Remove(filepath.Join(tree.dir, "kernel/overlay.ko")); err != nil {
		t.Fatal(err)
	}
	if tree, err = openTree(tree.dir); err != nil {
		t.Fatal(err)
	}
	if _, err := archive(t.Context(), tree, nil); err == nil || !strings.Contains(err.Error(), "there is no kernel module overlay in ") {
		t.Errorf("without one that every guest needs: %v", err)
	}
}

func TestModulesThatCannotBeOrdered(t *testing.T) {
	for name, tt := range map[string]struct {
		modules map[string][]byte
		want    string
	}{
		"a circle":         {map[string][]byte{"a.ko": fakeModule("depends=b"), "b.ko": fakeModule("depends=a")}, "a depends on itself"},
		"a missing one":    {map[string][]byte{"a.ko": fakeModule("depends=b")}, "there is no kernel module b in "},
		"a text":           {map[string][]byte{"a.ko": []byte("text")}, "read "},
		"no module at all": {map[string][]byte{"a.ko": fakeKernel(true)}, "it is no kernel module"},
	} {
		tree, err := openTree(fakeTree(t, t.TempDir(), tt.modules))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := tree.resolve(t.Context(), "a", nil); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %s", name, err, tt.want)
		}
	}
}

// deb makes a package of a folder.
func deb(t *testing.T, root string) string {
	t.Helper()
	fakeTree(t, root, map[string][]byte{"DEBIAN/control": []byte("Package: k\nVersion: 1\nArchitecture: amd64\nMaintainer: x <x@example.org>\nDescription: x\n")})
	file := filepath.Join(t.TempDir(), "k.deb")
	if out, err := exec.Command("dpkg-deb", "--root-owner-group", "-b", root, file).CombinedOutput(); err != nil {
		t.Fatalf("dpkg-deb: %v: %s", err, out)
	}
	return file
}

func TestAPackageBecomesAKernel(t *testing.T) {
	root, want := t.TempDir(), fakeKernel(true)
	aDistribution(t, filepath.Join(root, "usr/lib/modules/6.1.0"))
	fakeTree(t, root, map[string][]byte{
		"boot/vmlinuz-6.1.0": fakeBzImage(gzipped(t, want), len(want)), "boot/config-6.1.0": []byte("CONFIG_PVH=y\n"), "boot/System.map-6.1.0": nil,
	})
	store, err := cache.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	o := Options{Package: deb(t, root), Log: &log}
	if _, err := Lookup(t.Context(), store, o); err == nil {
		t.Error("it is there before it is made")
	}
	e, cached, err := Build(t.Context(), store, o)
	if err != nil || cached {
		t.Fatalf("%v, %v", cached, err)
	}
	if got, err := os.ReadFile(e.Path(kernel.Vmlinux)); err != nil || !bytes.Equal(got, want) {
		t.Errorf("vmlinux: %d bytes, %v", len(got), err)
	}
	if got, err := os.ReadFile(e.Path(kernel.DotConf)); err != nil || string(got) != "CONFIG_PVH=y\n" {
		t.Errorf("config: %q, %v", got, err)
	}
	modules, err := os.ReadFile(e.Path(Modules))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(wantList+"built crc32c_generic ext4\n", modulesOf(t, modules)); diff != "" {
		t.Error(diff)
	}
	if !strings.Contains(log.String(), "unpacking the kernel's package: done in") {
		t.Errorf("log: %s", &log)
	}
	again, cached, err := Build(t.Context(), store, o)
	if err != nil || !cached || again.Key != e.Key {
		t.Errorf("again: %v, %v", cached, err)
	}
	o.More = []string{"floppy"}
	if other, cached, err := Build(t.Context(), store, o); err != nil || cached || other.Key == e.Key {
		t.Errorf("with one more module: %v, %v", cached, err)
	}
}

func TestAFileBecomesAKernel(t *testing.T) {
	dir := fakeTree(t, t.TempDir(), map[string][]byte{"vmlinux": fakeKernel(true), "old": fakeKernel(false)})
	store, err := cache.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	e, _, err := Build(t.Context(), store, Options{Image: filepath.Join(dir, "vmlinux")})
	if err != nil || e.Files[Modules] != "" {
		t.Errorf("%v, %v", e, err)
	}
	e, _, err = Build(t.Context(), store, Options{Image: filepath.Join(dir, "vmlinux"), ModuleDir: aDistribution(t, t.TempDir())})
	if err != nil || e.Files[Modules] == "" {
		t.Errorf("with modules: %v, %v", e, err)
	}
	for name, tt := range map[string]struct {
		o    Options
		want string
	}{
		"a file that is not there":  {Options{Image: "/no/kernel"}, "read the kernel: open /no/kernel"},
		"a kernel without PVH":      {Options{Image: filepath.Join(dir, "old")}, "make a guest kernel of " + filepath.Join(dir, "old") + ": kernel old: the kernel has no PVH entry point"},
		"modules out of nowhere":    {Options{Image: filepath.Join(dir, "vmlinux"), More: []string{"a", "b"}}, "make a guest kernel of " + filepath.Join(dir, "vmlinux") + ": kernel modules a, b: the kernel has no folder of modules"},
		"a package that is no file": {Options{Package: "/no/k.deb"}, "read the package: open /no/k.deb"},
		"an unknown package":        {Options{Package: "no-such-kernel"}, "package no-such-kernel: apt does not know it"},
		"a package of something else": {
			Options{Package: deb(t, fakeTree(t, t.TempDir(), map[string][]byte{"etc/x": nil}))}, "make a guest kernel of ",
		},
	} {
		if _, _, err := Build(t.Context(), store, tt.o); err == nil || !strings.HasPrefix(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %s", name, err, tt.want)
		}
	}
}
