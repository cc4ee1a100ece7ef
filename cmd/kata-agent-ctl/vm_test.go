//go:build vm

package main

import (
	"bufio"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"kata/host/vmm/vmmtest"
)

// initrd is the guest that make guest has built.
func initrd(t *testing.T) string {
	t.Helper()
	path := filepath.Join(repository(t), "build/guest/kata-initrd.img")
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("no initrd: run make guest: %v", err)
	}
	return path
}

// TestVM runs scripts that boot machines.
func TestVM(t *testing.T) {
	kernel, initrd := vmmtest.Kernel(t), initrd(t)
	testscript.Run(t, testscript.Params{
		Dir:  "testdata/vm",
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"status": scripts{}.status},
		Setup: func(e *testscript.Env) error {
			e.Setenv("KERNEL", kernel)
			e.Setenv("INITRD", initrd)
			tmp := filepath.Join(e.WorkDir, "t") // short: sockets lie below it
			e.Setenv("TMPDIR", tmp)
			if err := os.Mkdir(tmp, 0o755); err != nil {
				return err
			}
			bundle := filepath.Join(e.WorkDir, "bundle")
			if err := os.Mkdir(bundle, 0o755); err != nil {
				return err
			}
			if err := writeBundle(bundle, "/web"); err != nil {
				return err
			}
			return addBind(filepath.Join(bundle, "config.json"), filepath.Join(e.WorkDir, "bind.json"), filepath.Join(e.WorkDir, "data"))
		},
	})
}

// addBind copies a spec and adds a bind mount of source on /data.
func addBind(spec, to, source string) error {
	text, err := os.ReadFile(spec)
	if err != nil {
		return err
	}
	const mounts = `"mounts": [`
	bind := mounts + `{"destination": "/data", "type": "bind", "source": "` + source + `", "options": ["rbind"]},`
	return os.WriteFile(to, []byte(strings.Replace(string(text), mounts, bind, 1)), 0o600)
}

// TestAMachineEndsWithItsTool ends the tool in the middle of a session.
func TestAMachineEndsWithItsTool(t *testing.T) {
	tmp := t.TempDir()
	cmd := exec.Command("kata-agent-ctl", "vm", "--share", "--kernel", vmmtest.Kernel(t), "--initrd", initrd(t), "-c", "Check", "-c", "sleep 1h")
	cmd.Env = append(os.Environ(), "TMPDIR="+tmp)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var stderr strings.Builder
	cmd.Stderr = &stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	kill := time.AfterFunc(time.Minute, func() { _ = cmd.Process.Kill() })
	defer kill.Stop()
	line, _ := bufio.NewReader(stdout).ReadString('\n')
	if line != "status: SERVING\n" {
		t.Errorf("it says %q", line)
	}
	_ = cmd.Process.Signal(syscall.SIGTERM)
	err = cmd.Wait()
	if cmd.ProcessState.ExitCode() != 1 || !strings.Contains(stderr.String(), "sleep 1h0m0s: ") {
		t.Errorf("it ends with %v: %s", err, stderr.String())
	}
	if left, _ := os.ReadDir(tmp); len(left) != 0 {
		t.Errorf("it leaves %v", left)
	}
}
