package share

import (
	"strconv"
	"sync"
	"testing"
)

// A mount or unmount that hangs holds up its own container only.
func TestAContainersMountsWaitForNoOther(t *testing.T) {
	tree := newTree(t)
	source := t.TempDir()
	stuck, err := tree.lock("stuck")
	if err != nil {
		t.Fatal(err)
	}
	_, undo, err := tree.AddRootfs("c1", source, false)
	if err != nil {
		t.Fatal(err)
	}
	if err := undo(); err != nil {
		t.Error(err)
	}
	stuck.ops.Unlock()
	if _, _, err := tree.AddRootfs("stuck", source, false); err != nil {
		t.Error(err)
	}
}

func TestContainersComeAndGoAtOnce(t *testing.T) {
	tree := newTree(t)
	source := t.TempDir()
	var all sync.WaitGroup
	for n := range 4 {
		cid := "c" + strconv.Itoa(n%2) // two of each id
		all.Go(func() {
			for i := range 50 {
				_, undo, err := tree.AddBind(cid, n*1000+i, source, false, false)
				if err == nil && i%2 == 0 {
					err = undo()
				}
				if err == nil && i%5 == 4 {
					err = tree.RemoveContainer(cid)
				}
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
}
