package vm

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"

	"kata/image/initrd"
	"kata/test/vmtest/wire"
)

// Payload is what a test VM's initrd holds besides the init and busybox.
type Payload struct {
	Init    string            // path of the compiled kata/test/vmtest/init
	Busybox string            // path of a static busybox; its applets become links
	Files   map[string]string // guest path -> host file, or folder that is copied whole
	Job     wire.Job
}

// WriteInitrd writes the initrd of the payload to a new file.
func WriteInitrd(name string, p Payload) error {
	tree, err := p.tree()
	if err != nil {
		return fmt.Errorf("collect the initrd: %w", err)
	}
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	err = initrd.Write(f, tree.entries)
	return errors.Join(err, f.Close())
}

func (p Payload) tree() (*tree, error) {
	t := &tree{dirs: map[string]bool{".": true}}
	for _, d := range []string{"dev", "proc", "sys", "run", "tmp", "root", "usr", "var", "bin", "etc"} {
		t.dir(d)
	}
	t.add(initrd.CharDevice("dev/console", 0o600, 5, 1))
	for _, l := range []string{"sbin", "usr/bin", "usr/sbin"} {
		t.add(initrd.Link(l, "/bin"))
	}
	t.add(initrd.File("etc/passwd", 0o644, []byte("root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n")))
	t.add(initrd.File("etc/group", 0o644, []byte("root:x:0:\ntty:x:5:\nnogroup:x:65534:\n")))
	t.add(initrd.File("etc/hosts", 0o644, []byte("127.0.0.1 localhost vmtest\n::1 localhost\n")))
	job, err := json.Marshal(p.Job)
	if err != nil {
		return nil, err
	}
	t.add(initrd.File(strings.TrimPrefix(wire.JobFile, "/"), 0o644, job))
	if err := t.copy("init", p.Init); err != nil {
		return nil, err
	}
	if err := t.busybox(p.Busybox); err != nil {
		return nil, err
	}
	for guest, host := range p.Files {
		if err := t.copy(strings.TrimPrefix(path.Clean(guest), "/"), host); err != nil {
			return nil, err
		}
	}
	return t, nil
}

// tree collects entries and adds the folders they are in.
type tree struct {
	entries []initrd.Entry
	dirs    map[string]bool
}

func (t *tree) dir(name string) {
	if t.dirs[name] {
		return
	}
	t.dir(path.Dir(name))
	t.dirs[name] = true
	t.entries = append(t.entries, initrd.Dir(name, 0o755))
}

func (t *tree) add(e initrd.Entry) {
	t.dir(path.Dir(e.Path))
	t.entries = append(t.entries, e)
}

// copy adds a file, or a folder with everything in it.
func (t *tree) copy(guest, host string) error {
	return filepath.WalkDir(host, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		below, err := filepath.Rel(host, p)
		if err != nil {
			return err
		}
		at := path.Join(guest, filepath.ToSlash(below))
		switch {
		case d.IsDir():
			t.dir(at)
		case d.Type() == fs.ModeSymlink:
			target, err := os.Readlink(p)
			if err != nil {
				return err
			}
			t.add(initrd.Link(at, target))
		case d.Type().IsRegular(), p == os.DevNull: // the latter stands for an empty file
			info, err := d.Info()
			if err != nil {
				return err
			}
			data, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			t.add(initrd.File(at, uint32(info.Mode().Perm()), data))
		default:
			return fmt.Errorf("%s: cannot be put into an initrd", p)
		}
		return nil
	})
}

func (t *tree) busybox(host string) error {
	if err := t.copy("bin/busybox", host); err != nil {
		return err
	}
	applets, err := exec.Command(host, "--list").Output()
	if err != nil {
		return fmt.Errorf("list the applets of %s: %w", host, err)
	}
	for _, name := range strings.Fields(string(applets)) {
		if name != "busybox" {
			t.add(initrd.Link("bin/"+name, "busybox"))
		}
	}
	return nil
}
