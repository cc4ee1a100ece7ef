package share_test

import (
	"testing"

	"kata/host/guestvm"
	"kata/host/guestvm/guestvmtest"
	"kata/host/share"
)

func TestATreeIsFiles(t *testing.T) {
	guestvmtest.TestFiles(t, func(t *testing.T, dir string) guestvm.Files {
		tree, err := share.NewTree(dir)
		if err != nil {
			t.Fatal(err)
		}
		return tree
	})
}
