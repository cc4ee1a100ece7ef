package mount

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

func TestParse(t *testing.T) {
	const (
		ro, nosuid, nodev, noexec = unix.MOUNT_ATTR_RDONLY, unix.MOUNT_ATTR_NOSUID, unix.MOUNT_ATTR_NODEV, unix.MOUNT_ATTR_NOEXEC
		atime                     = unix.MOUNT_ATTR__ATIME
	)
	for _, tt := range []struct {
		name    string
		options string
		want    Options
	}{
		{"nothing", "", Options{}},
		{"devpts of a default spec", "nosuid,noexec,newinstance,ptmxmode=0666,mode=0620,gid=5", Options{
			Attr: Attr{Set: nosuid | noexec},
			Data: []Param{{Key: "newinstance", Flag: true}, {Key: "ptmxmode", Value: "0666"}, {Key: "mode", Value: "0620"}, {Key: "gid", Value: "5"}},
		}},
		{"a recursive bind, read-only at the top", "rbind,ro", Options{Bind: true, Recursive: true, Attr: Attr{Set: ro}}},
		{"read-only all the way down", "rbind,rro", Options{Bind: true, Recursive: true, AttrRec: Attr{Set: ro}}},
		{"recursive negations", "bind,rrw,rsuid,rdev,rexec", Options{Bind: true, AttrRec: Attr{Clear: ro | nosuid | nodev | noexec}}},
		{"negations clear", "rw,suid,dev,exec", Options{Attr: Attr{Clear: ro | nosuid | nodev | noexec}}},
		{"the later of two wins", "ro,rw,exec,noexec", Options{Attr: Attr{Set: noexec, Clear: ro}}},
		{"access time is one field", "noatime,strictatime", Options{Attr: Attr{Set: unix.MOUNT_ATTR_STRICTATIME, Clear: atime}}},
		{"relatime replaces noatime", "noatime,relatime", Options{Attr: Attr{Clear: atime}}},
		{"recursive access time", "rnoatime,rnodiratime", Options{AttrRec: Attr{Set: unix.MOUNT_ATTR_NOATIME | unix.MOUNT_ATTR_NODIRATIME, Clear: atime}}},
		{"recursive relatime is not a parameter", "rrelatime", Options{AttrRec: Attr{Clear: atime}}},
		{"relatime is not the recursive elatime", "relatime", Options{Attr: Attr{Clear: atime}}},
		{"propagation in order", "rprivate,shared", Options{Propagation: []uint64{unix.MS_PRIVATE | unix.MS_REC, unix.MS_SHARED}}},
		{"size and copy-up of a tmpfs", "size=64k,mode=1777,tmpcopyup", Options{
			CopyUp: true, Data: []Param{{Key: "size", Value: "64k"}, {Key: "mode", Value: "1777"}},
		}},
		{"an equals sign in a value", "trans=a=b", Options{Data: []Param{{Key: "trans", Value: "a=b"}}}},
		{"defaults mean nothing", "defaults", Options{}},
		{"ID mapping", "bind,idmap", Options{Bind: true, IDMap: true}},
		{"ID mapping of a tree", "rbind,ridmap", Options{Bind: true, Recursive: true, IDMap: true, IDMapRecursive: true}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := Parse(strings.Split(tt.options, ","))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
	for _, bad := range []string{"a\x00b"} {
		if _, err := Parse([]string{bad}); err == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add("rbind,ro,size=1")
	f.Fuzz(func(t *testing.T, s string) {
		o, err := Parse(strings.Split(s, ","))
		if err == nil && o.Attr.Set&o.Attr.Clear&^unix.MOUNT_ATTR__ATIME != 0 {
			t.Errorf("bits both set and cleared: %#x %#x", o.Attr.Set, o.Attr.Clear)
		}
	})
}

// inNamespace runs f on a thread with a mount namespace of its own, whose
// mounts vanish with it. The thread is not used for anything else.
func inNamespace(t *testing.T, f func(dir string) error) {
	t.Helper()
	dir := t.TempDir()
	errs := make(chan error)
	go func() {
		runtime.LockOSThread()
		errs <- func() error {
			if err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS); err != nil {
				return err
			}
			if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
				return err
			}
			return f(dir)
		}()
	}()
	if err := <-errs; err != nil {
		t.Fatal(err)
	}
}

func mustMkdir(path string) error { return os.MkdirAll(path, 0o755) }

func TestMountTmpfsWithOptions(t *testing.T) {
	inNamespace(t, func(dir string) error {
		if err := Mount("tmpfs", "tmpfs", dir, []string{"nosuid", "size=64k", "mode=0700"}); err != nil {
			return err
		}
		var fs unix.Statfs_t
		if err := unix.Statfs(dir, &fs); err != nil {
			return err
		}
		if size := int64(fs.Blocks) * fs.Bsize; size != 64<<10 {
			t.Errorf("size %d, want 65536", size)
		}
		if fs.Flags&unix.ST_NOSUID == 0 || fs.Flags&unix.ST_NOEXEC != 0 {
			t.Errorf("flags %#x", fs.Flags)
		}
		st, err := os.Stat(dir)
		if err != nil {
			return err
		}
		if st.Mode().Perm() != 0o700 {
			t.Errorf("mode %v, want 0700", st.Mode())
		}
		return nil
	})
}

// A bind that is read-only is so for the mounts that are said to be, and not
// for its source.
func TestReadonlyBinds(t *testing.T) {
	for _, tt := range []struct {
		option            string
		topWrite, subOpen bool
	}{
		{"ro", false, true},
		{"rro", false, false},
		{"rw", true, true},
	} {
		t.Run(tt.option, func(t *testing.T) {
			inNamespace(t, func(dir string) error {
				source, target := filepath.Join(dir, "source"), filepath.Join(dir, "target")
				sub := filepath.Join(source, "sub")
				for _, d := range []string{sub, target} {
					if err := mustMkdir(d); err != nil {
						return err
					}
				}
				if err := Mount("tmpfs", "tmpfs", sub, nil); err != nil {
					return err
				}
				if err := Mount("bind", source, target, []string{"rbind", tt.option}); err != nil {
					return err
				}
				for path, want := range map[string]bool{
					filepath.Join(target, "f"):     tt.topWrite,
					filepath.Join(target, "sub/f"): tt.subOpen,
					filepath.Join(source, "g"):     true,
					filepath.Join(sub, "g"):        true,
				} {
					if err := os.WriteFile(path, nil, 0o644); (err == nil) != want {
						t.Errorf("writing %s: %v", strings.TrimPrefix(path, dir), err)
					}
				}
				return nil
			})
		})
	}
}

func TestMountErrorsSayWhy(t *testing.T) {
	inNamespace(t, func(dir string) error {
		for _, tt := range []struct {
			fstype, source, target string
			options                []string
			want                   []string
		}{
			{"nosuchfs", "none", dir, nil, []string{dir, `unknown file system type "nosuchfs"`}},
			{"tmpfs", "tmpfs", dir, []string{"wrong=1"}, []string{dir, `"wrong=1"`}},
			{"tmpfs", "tmpfs", dir, []string{"size=many"}, []string{dir, "size"}},
			{"tmpfs", "tmpfs", filepath.Join(dir, "missing"), nil, []string{"missing", "no such file"}},
			{"bind", filepath.Join(dir, "gone"), dir, []string{"bind"}, []string{"gone", "no such file"}},
		} {
			err := Mount(tt.fstype, tt.source, tt.target, tt.options)
			for _, want := range tt.want {
				if err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("%s %v: error %v does not hold %q", tt.fstype, tt.options, err, want)
				}
			}
		}
		return nil
	})
}

func TestPropagation(t *testing.T) {
	inNamespace(t, func(dir string) error {
		if err := Mount("tmpfs", "tmpfs", dir, []string{"shared"}); err != nil {
			return err
		}
		table, err := os.ReadFile("/proc/thread-self/mountinfo")
		if err != nil {
			return err
		}
		for line := range strings.Lines(string(table)) {
			if fields := strings.Fields(line); fields[4] == dir {
				if !strings.HasPrefix(fields[6], "shared:") {
					return fmt.Errorf("mount is not shared: %s", line)
				}
				return nil
			}
		}
		return fmt.Errorf("%s is not mounted", dir)
	})
}
