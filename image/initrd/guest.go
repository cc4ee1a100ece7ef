package initrd

import (
	"bytes"
	"context"
	"crypto/sha256"
	"debug/elf"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"kata/image/cache"
)

// Image is the name of the file of an entry of the cache.
const Image = "initrd.img"

// kind is the name of initrds in the cache.
const kind = "initrd"

// version changes when the same agent would give another initrd.
const version = "1"

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

// Build returns the guest's initrd with the given agent from the store,
// building it if need be; cached says that it was there.
func Build(ctx context.Context, store *cache.Store, agent string, notify func(string)) (entry *cache.Entry, cached bool, err error) {
	binary, err := os.ReadFile(agent)
	if err != nil {
		return nil, false, fmt.Errorf("read the agent: %w", err)
	}
	if err := runsAlone(binary); err != nil {
		return nil, false, fmt.Errorf("agent %s: %w", agent, err)
	}
	return store.Make(ctx, kind, inputs(binary), notify, func(_ context.Context, out, _ string) error {
		return create(filepath.Join(out, Image), Guest(binary))
	})
}

// Lookup returns the initrd with the given agent if the store has it, else an
// error as of cache.Store.Get.
func Lookup(store *cache.Store, agent string) (*cache.Entry, error) {
	binary, err := os.ReadFile(agent)
	if err != nil {
		return nil, fmt.Errorf("read the agent: %w", err)
	}
	return store.Get(kind, inputs(binary))
}

func inputs(agent []byte) map[string]string {
	return map[string]string{"builder": version, "agent": fmt.Sprintf("%x", sha256.Sum256(agent))}
}

func create(name string, entries []Entry) error {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	return errors.Join(Write(f, entries), f.Close())
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
