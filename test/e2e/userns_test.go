//go:build e2e

package e2e

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"kata/test/harness"
)

// mapped gives the container a user namespace; containerd gives it a root file
// system whose files belong to its root.
func mapped(c harness.Container) harness.Container {
	c.Flags = append(c.Flags, "--uidmap", "0:100000:65536", "--gidmap", "0:200000:65536")
	return c
}

func TestContainerWithAUserNamespace(t *testing.T) {
	for _, tt := range []struct{ name, image, script, want string }{
		{
			name:   "is root inside",
			script: "id -u; id -g; cat /proc/self/uid_map /proc/self/gid_map | tr -s ' '",
			want:   "0\n0\n 0 100000 65536\n 0 200000 65536\n",
		},
		{
			name:   "owns its files",
			script: "stat -c '%u %g' / /bin/busybox /etc/passwd; touch /new; mkdir /dir; chown 7:8 /new; stat -c '%u %g' /new /dir; rm /bin/true; test -e /bin/true || echo gone",
			want:   "0 0\n0 0\n0 0\n7 8\n0 0\ngone\n",
		},
		{
			name:   "may be another user",
			image:  asUser,
			script: "id -u; id -G; touch /home/tester/x && stat -c '%u %g' /home/tester/x; touch /x 2>/dev/null || echo refused",
			want:   "1000\n1000 2000\n1000 1000\nrefused\n",
		},
		{
			name:   "has its devices and file systems",
			script: "echo x >/dev/null && head -c 3 /dev/zero | wc -c; echo a >/dev/shm/f && cat /dev/shm/f; for d in null zero full random urandom tty; do test -c /dev/$d && echo $d; done",
			want:   "3\na\nnull\nzero\nfull\nrandom\nurandom\ntty\n",
		},
		{
			name:   "has no say in the machine",
			script: "grep CapEff /proc/self/status; chown 70000 /etc/passwd 2>/dev/null || echo refused; echo 1 2>/dev/null >/proc/sysrq-trigger || echo refused",
			want:   "CapEff:\t00000000a80425fb\nrefused\nrefused\n",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			both(t, func(t *test) {
				c := t.sh(tt.script)
				if tt.image != "" {
					c.Image = tt.image
				}
				t.wantOutput(t.succeed(mapped(c)), tt.want, "")
			})
		})
	}
}

func TestExecJoinsTheUserNamespace(t *testing.T) {
	both(t, func(t *test) {
		id := t.detach(mapped(t.sh("exec sleep 1000")))
		r := t.exec(id, "e1", "/bin/sh", "-c", "id -u; tr -s ' ' </proc/self/uid_map; kill -0 1 && echo 1 is ours; touch /x && stat -c %u /x")
		t.wantOutput(r, "0\n 0 100000 65536\n1 is ours\n0\n", "")
	})
}

func TestVolumesOfAContainerWithAUserNamespace(t *testing.T) {
	both(t, func(t *test) {
		dir := t.TempDir()
		for name, owner := range map[string]int{"its": 100000, "roots": 0} {
			path := filepath.Join(dir, name)
			if err := os.Mkdir(path, 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.Chown(path, owner, owner*2); err != nil {
				t.Fatal(err)
			}
		}
		c := mapped(t.sh("stat -c '%u %g' /its /roots; touch /its/f /its/g; chown 5:6 /its/g; touch /roots/f 2>/dev/null || echo refused"))
		c.Flags = append(c.Flags,
			"--mount", "type=bind,src="+dir+"/its,dst=/its,options=rbind:rw",
			"--mount", "type=bind,src="+dir+"/roots,dst=/roots,options=rbind:rw")
		t.wantOutput(t.succeed(c), "0 0\n65534 65534\nrefused\n", "")
		for name, want := range map[string]uint32{"f": 100000, "g": 100005} {
			info, err := os.Stat(filepath.Join(dir, "its", name))
			if err != nil {
				t.Fatal(err)
			}
			if uid := info.Sys().(*syscall.Stat_t).Uid; uid != want {
				t.Errorf("on the host %s belongs to %d, want %d", name, uid, want)
			}
		}
	})
}
