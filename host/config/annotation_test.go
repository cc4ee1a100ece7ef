package config

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// secret is what no message about a file named by a pod may hold.
const secret = "hunter2"

// trustedDir makes a folder that root alone can write, as all above it.
func trustedDir(t *testing.T) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("needs root: the files have to belong to it")
	}
	dir, err := os.MkdirTemp("/run", "kata-config") // /tmp is everybody's
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// operatorsFile makes a configuration that allows the folders.
func operatorsFile(t *testing.T, folders ...string) string {
	t.Helper()
	var list []string
	for _, f := range folders {
		list = append(list, fmt.Sprintf("%q", f))
	}
	return write(t, filepath.Join(t.TempDir(), "operator.toml"), "[runtime]\nannotation_config_folders = ["+strings.Join(list, ", ")+"]\n")
}

func TestAPodsFileReplacesTheOperators(t *testing.T) {
	dir := trustedDir(t)
	file := write(t, filepath.Join(dir, "below", "pod.toml"), "[hypervisor.qemu]\ndefault_memory = 300\n[runtime]\nannotation_config_folders = [\"/etc\"]\n")
	c, err := Load(Sources{Annotation: file, Option: operatorsFile(t, "/elsewhere", dir), Host: big})
	if err != nil {
		t.Fatal(err)
	}
	if c.Path != file || c.Machine.MemoryMiB != 300 {
		t.Errorf("loaded %s, with %d MiB", c.Path, c.Machine.MemoryMiB)
	}
	if got := strings.Join(c.Policy.ConfigFolders, " "); got != "/elsewhere "+dir {
		t.Errorf("the pod's file changes the operator's folders to %s", got)
	}
}

func TestAPodsFileThatIsRefused(t *testing.T) {
	for name, tt := range map[string]struct {
		// spoil changes what would be right and returns what the annotation names.
		spoil func(t *testing.T, dir, file string) string
		want  string
	}{
		"in no folder of the list": {func(*testing.T, string, string) string { return "/etc/hostname" },
			`"/etc/hostname" is refused: it is in none of the folders`},
		"not there, in no folder of the list": {func(*testing.T, string, string) string { return "/no/such/file" },
			`"/no/such/file" is refused: it is in none of the folders`},
		"a folder's name with more": {func(t *testing.T, dir, _ string) string { return dir + "x/pod.toml" },
			"it is in none of the folders"},
		"the folder itself": {func(_ *testing.T, dir, _ string) string { return dir }, "it is in none of the folders"},
		"a way out of the folder": {func(_ *testing.T, dir, _ string) string { return dir + "/../pod.toml" },
			`without "."`},
		"a relative path": {func(*testing.T, string, string) string { return "pod.toml" }, "is not an absolute path"},
		"a line break":    {func(_ *testing.T, dir, _ string) string { return dir + "/a\nb" }, "control characters"},
		"a path without an end": {func(_ *testing.T, dir, _ string) string { return dir + strings.Repeat("/a", 4000) },
			"bytes is refused"},
		"a file that is not there": {func(_ *testing.T, dir, _ string) string { return dir + "/none" }, "no such file"},
		"a folder":                 {func(_ *testing.T, dir, _ string) string { return dir + "/below" }, "is not a regular file"},
		"a pipe": {func(t *testing.T, dir, _ string) string {
			must(t, unix.Mkfifo(dir+"/pipe", 0o600))
			return dir + "/pipe"
		}, "is not a regular file"},
		"a symbolic link to a good file": {func(t *testing.T, dir, file string) string {
			must(t, os.Symlink(file, dir+"/link"))
			return dir + "/link"
		}, "is a symbolic link"},
		"a symbolic link above it": {func(t *testing.T, dir, file string) string {
			must(t, os.Symlink(dir+"/below", dir+"/link"))
			return dir + "/link/pod.toml"
		}, "is a symbolic link"},
		"a file of a user's": {func(t *testing.T, _, file string) string {
			must(t, os.Chown(file, 1000, 0))
			return file
		}, "does not belong to root"},
		"a file that its group can write": {func(t *testing.T, _, file string) string {
			must(t, os.Chmod(file, 0o664))
			return file
		}, "can be written by others"},
		"a file that all can write": {func(t *testing.T, _, file string) string {
			must(t, os.Chmod(file, 0o602))
			return file
		}, "can be written by others"},
		"a folder of a user's": {func(t *testing.T, dir, file string) string {
			must(t, os.Chown(dir+"/below", 1000, 0))
			return file
		}, "/below does not belong to root"},
		"a folder that all can write, with a sticky bit": {func(t *testing.T, dir, file string) string {
			must(t, os.Chmod(dir+"/below", 0o777|os.ModeSticky))
			return file
		}, "/below can be written by others"},
		"the listed folder of a user's": {func(t *testing.T, dir, file string) string {
			must(t, os.Chown(dir, 1000, 0))
			return file
		}, " does not belong to root"},
		"a file that is too large": {func(t *testing.T, dir, _ string) string {
			return write(t, dir+"/huge", strings.Repeat("#", maxFileSize+1))
		}, "larger than"},
		"no TOML": {func(t *testing.T, dir, _ string) string {
			return write(t, dir+"/shadow", "root:"+secret+":0:0\n")
		}, "shadow:1: not a configuration"},
		"TOML that ends early": {func(t *testing.T, dir, _ string) string {
			return write(t, dir+"/early", "\na = \""+secret)
		}, "early:2: not a configuration"},
		"keys that nobody knows": {func(t *testing.T, dir, _ string) string {
			return write(t, dir+"/keys", "[runtime]\n"+secret+" = 1\nenable_debug = \""+secret+"\"\n")
		}, "keys:2: not a configuration"},
		"a table that nobody knows": {func(t *testing.T, dir, _ string) string {
			return write(t, dir+"/tables", "["+secret+"]\n")
		}, "tables:1: not a configuration"},
		"lines without an end": {func(t *testing.T, dir, _ string) string {
			return write(t, dir+"/line", secret+strings.Repeat("x", maxLine))
		}, "line:1: not a configuration"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := trustedDir(t)
			file := write(t, filepath.Join(dir, "below", "pod.toml"), "# "+secret+"\n[hypervisor.qemu]\ndefault_memory = 300\n")
			path := tt.spoil(t, dir, file)
			_, err := Load(Sources{Annotation: path, Option: operatorsFile(t, dir), Host: big})
			if err == nil {
				t.Fatal("it is taken")
			}
			got := err.Error()
			if !strings.HasPrefix(got, "annotation io.katacontainers.config_path: ") || !strings.Contains(got, tt.want) || strings.Contains(got, "\n") {
				t.Errorf("got  %v\nwant one line with %s", got, tt.want)
			}
			if strings.Contains(got, secret) {
				t.Errorf("the error quotes the file: %s", got)
			}
		})
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestNoFolderIsAllowedByDefault(t *testing.T) {
	file := write(t, filepath.Join(trustedDir(t), "pod.toml"), "")
	_, err := Load(Sources{Annotation: file, Search: []string{}, Host: big})
	want := "annotation io.katacontainers.config_path: \"" + file + "\" is refused: the operator lists no folder in annotation_config_folders of [runtime]"
	if err == nil || err.Error() != want {
		t.Errorf("got  %v\nwant %s", err, want)
	}
}

// What a good file of a pod's asks for and is not there, or has no effect, is told
// without its values.
func TestWhatAPodsFileAsksForIsNotQuoted(t *testing.T) {
	dir := trustedDir(t)
	file := write(t, filepath.Join(dir, "pod.toml"), "[hypervisor.qemu]\npath = \"/"+secret+"\"\ndbg_monitor_socket = \""+secret+"\"\n")
	c, err := Load(Sources{Annotation: file, Option: operatorsFile(t, dir), Host: big})
	if err != nil {
		t.Fatal(err)
	}
	err = c.Check()
	want := "annotation io.katacontainers.config_path: " + file + ":2: hypervisor.qemu.path: no such file or directory"
	if err == nil || err.Error() != want {
		t.Errorf("got  %v\nwant %s", err, want)
	}
	if len(c.Warnings) != 1 || strings.Contains(c.Warnings[0].String(), secret) {
		t.Errorf("warnings %v", c.Warnings)
	}
}

func TestFoldersThatMayNotBeListed(t *testing.T) {
	for _, bad := range []string{"relative", "/", "/a/", "/a/../b", "", "/a//b"} {
		_, err := Decode("f", fmt.Sprintf("[runtime]\nannotation_config_folders = [%q]\n", bad), big)
		if err == nil || !strings.Contains(err.Error(), "f:2: runtime.annotation_config_folders = ") {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func TestFolderProblems(t *testing.T) {
	good, bad := trustedDir(t), trustedDir(t)
	must(t, os.Chmod(bad, 0o777))
	c := &Config{Path: "f", Policy: Policy{ConfigFolders: []string{good, bad, "/no/such"}}}
	problems := c.FolderProblems()
	want := []string{
		fmt.Sprintf("f: runtime.annotation_config_folders = %q: %s can be written by others than root", bad, bad),
		`f: runtime.annotation_config_folders = "/no/such": open /no: no such file or directory`,
	}
	for i, w := range want {
		if i >= len(problems) || problems[i].Error() != w {
			t.Fatalf("got %v, want %v", problems, want)
		}
	}
}
