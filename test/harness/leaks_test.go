package harness

import (
	"crypto/sha256"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestLeaksAreOnlyTheNodesOwn makes what other programs of the machine make, and
// what a container of the node would leave.
func TestLeaksAreOnlyTheNodesOwn(t *testing.T) {
	n := &Node{dir: t.TempDir()}
	id := n.NewID("web")
	before, err := n.Mark()
	if err != nil {
		t.Fatal(err)
	}
	hash := func(id string) string {
		return fmt.Sprintf("%x", sha256.Sum256([]byte(filepath.Join(n.socket(), Namespace, id))))
	}
	if err := os.MkdirAll(socketDir, 0o711); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{hash(id) + ".kata", hash("somebody-elses")} {
		l, err := net.Listen("unix", filepath.Join(socketDir, name))
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
	}
	for _, name := range []string{id, "vmtest-of-another"} {
		path := filepath.Join("/dev/shm", name)
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		defer os.Remove(path)
	}
	tap := fmt.Sprintf("other%d", os.Getpid()%100000)
	if out, err := exec.Command("ip", "tuntap", "add", tap, "mode", "tap").CombinedOutput(); err != nil {
		t.Fatalf("ip tuntap add: %v\n%s", err, out)
	}
	defer exec.Command("ip", "link", "del", tap).Run()

	after, err := n.inventory()
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for thing := range after {
		if !before.things[thing] {
			found = append(found, thing)
		}
	}
	slices.Sort(found)
	want := []string{
		"file /dev/shm/" + id,
		"file " + filepath.Join(socketDir, hash(id)+".kata"),
		"socket " + filepath.Join(socketDir, hash(id)+".kata"),
	}
	if got := strings.Join(found, "\n"); got != strings.Join(want, "\n") {
		t.Errorf("found\n%s\nwant\n%s", got, strings.Join(want, "\n"))
	}
}
