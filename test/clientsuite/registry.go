//go:build clients

package clientsuite

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"path"
	"strconv"
	"strings"
	"time"

	"kata/test/harness"
)

// registry is a registry of the OCI distribution specification that can be read: it
// has one image under every name.
type registry struct {
	blobs    map[string][]byte // by digest
	manifest string            // digest
}

// serveRegistry serves the tests' busybox at registryAddress; the result ends it.
func serveRegistry() (stop func() error, err error) {
	image, err := harness.Busybox("")
	if err != nil {
		return nil, err
	}
	image.Config.Env = []string{"PATH=/bin"}
	var archive bytes.Buffer
	if err := harness.WriteImage(&archive, image); err != nil {
		return nil, err
	}
	r, err := readLayout(&archive)
	if err != nil {
		return nil, fmt.Errorf("read the image: %w", err)
	}
	l, err := net.Listen("tcp", registryAddress)
	if err != nil {
		return nil, fmt.Errorf("serve images: %w", err)
	}
	server := &http.Server{Handler: r, ReadHeaderTimeout: time.Minute}
	done := make(chan error, 1)
	go func() { done <- server.Serve(l) }()
	return func() error {
		err := server.Close()
		if served := <-done; !errors.Is(served, http.ErrServerClosed) {
			err = errors.Join(err, served)
		}
		return err
	}, nil
}

// readLayout reads an archive of an OCI image layout.
func readLayout(archive io.Reader) (*registry, error) {
	r := &registry{blobs: make(map[string][]byte)}
	for files := tar.NewReader(archive); ; {
		h, err := files.Next()
		if err == io.EOF {
			return r, nil
		}
		if err != nil {
			return nil, err
		}
		data, err := io.ReadAll(files)
		if err != nil {
			return nil, err
		}
		if digest, ok := strings.CutPrefix(h.Name, "blobs/sha256/"); ok && digest != "" {
			r.blobs["sha256:"+digest] = data
		}
		if h.Name == "index.json" {
			var index struct{ Manifests []struct{ Digest string } }
			if err := json.Unmarshal(data, &index); err != nil {
				return nil, err
			}
			if len(index.Manifests) != 1 {
				return nil, fmt.Errorf("it has %d manifests", len(index.Manifests))
			}
			r.manifest = index.Manifests[0].Digest
		}
	}
}

func (r *registry) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	dir, reference := path.Split(req.URL.Path)
	mediaType := "application/octet-stream"
	if path.Base(dir) == "manifests" {
		mediaType = "application/vnd.oci.image.manifest.v1+json"
		if !strings.Contains(reference, ":") {
			// One image has one name; those of others are not there.
			if !strings.Contains(dir, "/busybox/") {
				http.NotFound(w, req)
				return
			}
			reference = r.manifest
		}
	}
	data, ok := r.blobs[reference]
	switch {
	case strings.TrimSuffix(req.URL.Path, "/") == "/v2":
		return
	case !ok:
		http.NotFound(w, req)
		return
	}
	w.Header().Set("Content-Type", mediaType)
	w.Header().Set("Docker-Content-Digest", reference)
	w.Header().Set("Content-Length", strconv.Itoa(len(data)))
	if req.Method != http.MethodHead {
		_, _ = w.Write(data)
	}
}
