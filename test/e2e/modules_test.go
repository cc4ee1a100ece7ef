//go:build e2e

package e2e

import (
	"os"
	"strconv"
	"strings"
	"testing"

	"kata/test/harness"
)

// withPackageKernel makes the container's guest one with the distribution's kernel,
// which loads the given modules.
func (t *test) withPackageKernel(c harness.Container, modules string) harness.Container {
	t.Helper()
	repo, err := harness.Repository()
	if err != nil {
		t.Fatal(err)
	}
	kernel, initrd, _, err := harness.PackageGuest(t.Context(), repo, os.Stderr)
	if err != nil {
		t.Fatal(err)
	}
	return t.withConfigFile(c, repo.KataConfig(map[string]string{
		"kernel": strconv.Quote(kernel), "initrd": strconv.Quote(initrd),
	})+"[agent.kata]\nkernel_modules = "+modules+"\n")
}

func TestADistributionsKernelRunsContainers(t *testing.T) {
	kata(t, "kata", func(t *test) {
		r := t.succeed(t.withPackageKernel(t.sh(`uname -r; cat /sys/module/loop/parameters/max_loop; grep -c . /proc/modules
			cat /proc/sys/kernel/modules_disabled; echo x > /tmp/x && cat /tmp/x`), `["loop max_loop=3", "ext4"]`))
		lines := strings.Fields(r.Stdout)
		if len(lines) != 5 || !strings.Contains(lines[0], "cloud") || lines[1] != "3" || lines[3] != "1" || lines[4] != "x" {
			t.Errorf("%q, want the cloud kernel's version, 3, a number of modules, 1, x", r.Stdout)
		}
	})
}

func TestAKernelModuleThatIsNowhereIsNamed(t *testing.T) {
	kata(t, "kata", func(t *test) {
		repo, err := harness.Repository()
		if err != nil {
			t.Fatal(err)
		}
		for name, c := range map[string]harness.Container{
			"the distribution's": t.withPackageKernel(t.sh("true"), `["floppy"]`),
			"the purpose-built":  t.withConfigFile(t.sh("true"), repo.KataConfig(nil)+"[agent.kata]\nkernel_modules = [\"floppy\"]\n"),
		} {
			r := node.Run(t.ctx, c)
			if r.Code == 0 || !strings.Contains(r.Stderr, `kernel_modules "floppy": neither the guest's image nor its kernel has it`) {
				t.Errorf("%s: %v", name, r.Failure())
			}
		}
	})
}
