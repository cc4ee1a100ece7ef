package harness

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"io"
	"testing"
)

func readTar(t *testing.T, b []byte) map[string][]byte {
	t.Helper()
	files := make(map[string][]byte)
	in := tar.NewReader(bytes.NewReader(b))
	for {
		h, err := in.Next()
		if err == io.EOF {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(in)
		if err != nil {
			t.Fatal(err)
		}
		files[h.Name] = data
	}
}

func TestImageIsALayoutWhoseDigestsHold(t *testing.T) {
	image := Image{
		Ref:    "local/x:latest",
		Files:  []File{{Name: "bin/", Mode: 0o755}, {Name: "bin/a", Mode: 0o755, Data: []byte("a")}, {Name: "bin/b", Link: "a"}},
		Config: ImageConfig{User: "nobody"},
	}
	var first, second bytes.Buffer
	for _, w := range []io.Writer{&first, &second} {
		if err := WriteImage(w, image); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(first.Bytes(), second.Bytes()) {
		t.Error("the same image gives different bytes")
	}
	files := readTar(t, first.Bytes())
	blob := func(d descriptor) []byte {
		t.Helper()
		b := files["blobs/sha256/"+d.Digest[len("sha256:"):]]
		if digest(b) != d.Digest || int64(len(b)) != d.Size {
			t.Errorf("blob %s has digest %s and %d bytes, want %d", d.Digest, digest(b), len(b), d.Size)
		}
		return b
	}
	var idx index
	var man manifest
	var doc imageDocument
	if err := json.Unmarshal(files["index.json"], &idx); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(blob(idx.Manifests[0]), &man); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(blob(man.Config), &doc); err != nil {
		t.Fatal(err)
	}
	if doc.Config.User != "nobody" || doc.OS != "linux" || doc.RootFS.DiffIDs[0] != man.Layers[0].Digest {
		t.Errorf("image configuration %+v does not fit", doc)
	}
	if layer := readTar(t, blob(man.Layers[0])); string(layer["bin/a"]) != "a" {
		t.Errorf("layer holds %q in bin/a", layer["bin/a"])
	}
}

func TestAnIDIsFoundOnlyAsAWhole(t *testing.T) {
	tests := []struct {
		text string
		want bool
	}{
		{"/run/kata/kt1-a-1/qmp.sock", true},
		{"-id kt1-a-1", true},
		{"/run/kata/kt1-a-12/qmp.sock", false},
		{"kt1-a-12 kt1-a-1 ", true},
		{"", false},
	}
	for _, tt := range tests {
		if got := hasToken(tt.text, "kt1-a-1"); got != tt.want {
			t.Errorf("hasToken(%q) = %v, want %v", tt.text, got, tt.want)
		}
	}
}
