package initrd

import (
	"bytes"
	"context"
	"crypto/sha256"
	"debug/elf"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"kata/api"
	"kata/image/cache"
	"kata/lib/lzma"
)

// Image is the name of the file of an entry of the cache.
const Image = "initrd.img"

// kind is the name of initrds in the cache.
const kind = "initrd"

// version changes when the same files would give another initrd.
const version = "2"

// Guest returns the contents of the guest's initrd: the agent as /init, the
// folders it mounts on, and the console that the kernel opens for it.
func Guest(agent []byte) []Entry {
	return []Entry{
		Dir("dev", 0o755),
		CharDevice("dev/console", 0o600, 5, 1),
		Dir("proc", 0o555),
		Dir("run", 0o755),
		Dir("sys", 0o555),
		Dir("tmp", 0o1777),
		File("init", 0o755, agent),
	}
}

// Helpers returns the entries of programs that the agent starts for rare calls, by
// their names: packed, since a file of the initrd is memory of every guest. What
// they share with the agent, as the Go runtime, costs next to nothing.
func Helpers(agent []byte, programs map[string][]byte) []Entry {
	var entries []Entry
	folder := strings.TrimPrefix(api.HelperDir, "/")
	for dir := folder; dir != "."; dir = path.Dir(dir) {
		entries = append(entries, Dir(dir, 0o755))
	}
	for name, program := range programs {
		entries = append(entries, File(folder+"/"+name+api.HelperPacked, 0o644, lzma.Pack(program, agent)))
	}
	return entries
}

// Source says what an initrd is built from.
type Source struct {
	// Agent is the agent's file.
	Agent string
	// Helpers are the files of programs that the agent starts for rare calls, by
	// the names by which it knows them.
	Helpers map[string]string
	// Modules is the file of an archive with the kernel's modules, which is put
	// after the initrd's own (image/distro). "" is none.
	Modules string
	// Busybox is the file of a busybox, which makes the image the debug variant:
	// the agent's debug console gives shells where there is one. "" is none.
	Busybox string
}

// contents are the files of a Source.
type contents struct {
	agent, busybox []byte
	modules        []byte
	helpers        map[string][]byte
	applets        []string
}

func (s Source) read(ctx context.Context) (c contents, err error) {
	if c.agent, err = program("agent", s.Agent); err != nil {
		return c, err
	}
	c.helpers = make(map[string][]byte)
	for name, path := range s.Helpers {
		if c.helpers[name], err = program("helper", path); err != nil {
			return c, err
		}
	}
	if s.Modules != "" {
		if c.modules, err = os.ReadFile(s.Modules); err != nil {
			return c, fmt.Errorf("read the kernel's modules: %w", err)
		}
		if !bytes.HasPrefix(c.modules, []byte(magic)) || len(c.modules)%blockSize != 0 {
			return c, fmt.Errorf("%s is no archive of kernel modules", s.Modules)
		}
	}
	if s.Busybox == "" {
		return c, nil
	}
	if c.busybox, err = program("busybox", s.Busybox); err != nil {
		return c, err
	}
	c.applets, err = applets(ctx, s.Busybox)
	return c, err
}

// program reads a file that is to run in the guest.
func program(what, path string) ([]byte, error) {
	binary, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read the %s: %w", what, err)
	}
	if err := runsAlone(binary); err != nil {
		return nil, fmt.Errorf("%s %s: %w", what, path, err)
	}
	return binary, nil
}

func (c contents) inputs() map[string]string {
	in := map[string]string{"builder": version, "agent": fmt.Sprintf("%x", sha256.Sum256(c.agent))}
	for name, program := range c.helpers {
		in["helper "+name] = fmt.Sprintf("%x", sha256.Sum256(program))
	}
	if c.modules != nil {
		in["modules"] = fmt.Sprintf("%x", sha256.Sum256(c.modules))
	}
	if c.busybox != nil {
		in["busybox"] = fmt.Sprintf("%x", sha256.Sum256(c.busybox))
	}
	return in
}

func (c contents) entries() []Entry {
	entries := Guest(c.agent)
	if len(c.helpers) > 0 {
		entries = append(entries, Helpers(c.agent, c.helpers)...)
	}
	if c.busybox != nil {
		entries = append(entries, Debug(c.busybox, c.applets)...)
	}
	return entries
}

// Debug returns what the debug variant has in addition: busybox in /bin, and a
// link for each of its applets.
func Debug(busybox []byte, applets []string) []Entry {
	entries := []Entry{Dir("bin", 0o755), File("bin/busybox", 0o755, busybox)}
	for _, name := range applets {
		entries = append(entries, Link("bin/"+name, "busybox"))
	}
	return entries
}

// applets returns the names that a busybox can be called by.
func applets(ctx context.Context, busybox string) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, busybox, "--list").Output()
	if err != nil {
		return nil, fmt.Errorf("busybox %s: list its applets: %w", busybox, err)
	}
	var names []string
	for name := range strings.FieldsSeq(string(out)) {
		if strings.ContainsRune(name, '/') {
			return nil, fmt.Errorf("busybox %s: %q is not the name of an applet", busybox, name)
		}
		if name != "busybox" {
			names = append(names, name)
		}
	}
	if !slices.Contains(names, "sh") {
		return nil, fmt.Errorf("busybox %s: it has no shell", busybox)
	}
	return names, nil
}

// Build returns the guest's initrd from the store, building it if need be; cached
// says that it was there.
func Build(ctx context.Context, store *cache.Store, source Source, notify func(string)) (entry *cache.Entry, cached bool, err error) {
	c, err := source.read(ctx)
	if err != nil {
		return nil, false, err
	}
	return store.Make(ctx, kind, c.inputs(), notify, func(_ context.Context, out, _ string) error {
		return create(filepath.Join(out, Image), c.entries(), c.modules)
	})
}

// Lookup returns the initrd if the store has it, else an error as of
// cache.Store.Get.
func Lookup(ctx context.Context, store *cache.Store, source Source) (*cache.Entry, error) {
	c, err := source.read(ctx)
	if err != nil {
		return nil, err
	}
	return store.Get(kind, c.inputs())
}

// create writes an archive, and another one after it: the kernel unpacks both.
func create(name string, entries []Entry, more []byte) error {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	err = Write(f, entries)
	if err == nil {
		_, err = f.Write(more)
	}
	return errors.Join(err, f.Close())
}

// runsAlone refuses a program that could not be the only file of a guest:
// without it the kernel would only say that there is no working init.
func runsAlone(program []byte) error {
	f, err := elf.NewFile(bytes.NewReader(program))
	if err != nil {
		return fmt.Errorf("not an ELF program: %w", err)
	}
	if f.Machine != elf.EM_X86_64 {
		return fmt.Errorf("a program for %v, the guest is EM_X86_64", f.Machine)
	}
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			return errors.New("dynamically linked, and the guest has no libraries (build it with CGO_ENABLED=0)")
		}
	}
	return nil
}
