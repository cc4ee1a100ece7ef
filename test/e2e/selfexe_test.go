//go:build e2e

package e2e

import (
	"crypto/sha256"
	"os"
	"path/filepath"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"kata/test/harness"
)

// CVE-2019-5736: an image whose program is /proc/self/exe, or a link to it,
// executes whatever set the container up, which could then be opened and
// overwritten. Here that is the agent, in a guest of the container's own; it
// neither runs again nor can be written to, and nothing of it is the host's.
func TestAContainerCannotExecuteOrOverwriteItsRuntime(t *testing.T) {
	repo, err := harness.Repository()
	if err != nil {
		t.Fatal(err)
	}
	sums := func() (all [][sha256.Size]byte) {
		for _, name := range []string{"containerd-shim-kata-v2", "kata-agent"} {
			b, err := os.ReadFile(filepath.Join(repo.Bin(), name))
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, sha256.Sum256(b))
		}
		return all
	}
	before := sums()
	hostile := func(t *test, program string) harness.Container {
		return t.fromSpec(func(s *specs.Spec) {
			s.Process.Args = []string{program}
			link := filepath.Join(s.Root.Path, "bin", "innocent")
			if err := os.Symlink("/proc/self/exe", link); err != nil {
				t.Fatal(err)
			}
		})
	}
	for _, program := range []string{"/proc/self/exe", "/bin/innocent"} {
		t.Run("as the program "+filepath.Base(program), func(t *testing.T) {
			kata(t, "kata", func(t *test) {
				r := node.Run(t.ctx, hostile(t, program))
				if r.Code == 0 {
					t.Errorf("%s ran: %q", program, r.Stdout)
				}
			})
		})
	}
	t.Run("as the program of an exec", func(t *testing.T) {
		kata(t, "kata", func(t *test) {
			// The container waits for the runtime to come in, and writes to its
			// program as long as it is there.
			c := t.fromSpec(func(s *specs.Spec) {
				s.Process.Args = []string{"/bin/sh", "-c", `while :; do for p in /proc/[0-9]*; do
					case $(readlink $p/exe 2>&1) in */busybox) ;; *) sh -c "echo x >>$p/exe" 2>/dev/null && echo $p written; esac
				done; done >/log`}
				if err := os.Symlink("/proc/self/exe", filepath.Join(s.Root.Path, "bin", "innocent")); err != nil {
					t.Fatal(err)
				}
			})
			id := t.detach(c)
			for i := range 5 {
				if r := node.Exec(t.ctx, id, node.NewID("e"), "/bin/innocent"); r.Code == 0 {
					t.Errorf("exec %d of /proc/self/exe ran: %q", i, r.Stdout)
				}
			}
			t.wantOutput(t.exec(id, "last", "cat", "/log"), "", "")
		})
	})
	for i, sum := range sums() {
		if sum != before[i] {
			t.Errorf("program %d of the host has changed", i)
		}
	}
	kata(t, "and the next pod is well", func(t *test) { t.wantOutput(t.succeed(t.sh("echo well")), "well\n", "") })
}
