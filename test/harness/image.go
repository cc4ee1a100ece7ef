package harness

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"runtime"
	"strings"
)

// Image is a container image of one layer.
type Image struct {
	// Ref is the name to run it by, such as "local/busybox:latest".
	Ref string
	// Files are the layer's content, parents before children.
	Files []File
	// Config is what a Dockerfile would set.
	Config ImageConfig
}

// ImageConfig is the part of the OCI image configuration that runtimes apply.
type ImageConfig struct {
	User       string   `json:"User,omitempty"`
	Env        []string `json:"Env,omitempty"`
	Entrypoint []string `json:"Entrypoint,omitempty"`
	Cmd        []string `json:"Cmd,omitempty"`
	WorkingDir string   `json:"WorkingDir,omitempty"`
}

// File is one entry of an image's layer: a directory when Name ends in "/", a
// symbolic link when Link is set, else a regular file.
type File struct {
	Name string
	Mode int64
	Link string
	Data []byte
	UID  int
}

// Busybox returns an image with the distribution's static busybox, a link for
// each applet and a few accounts.
func Busybox(ref string) (Image, error) {
	exe, err := exec.LookPath("busybox")
	if err != nil {
		return Image{}, fmt.Errorf("make a busybox image: %w (Debian: busybox-static)", err)
	}
	program, err := os.ReadFile(exe)
	if err != nil {
		return Image{}, fmt.Errorf("make a busybox image: %w", err)
	}
	applets, err := exec.Command(exe, "--list").Output()
	if err != nil {
		return Image{}, fmt.Errorf("list busybox's applets: %w", err)
	}
	files := []File{
		{Name: "bin/", Mode: 0o755},
		{Name: "dev/", Mode: 0o755},
		{Name: "etc/", Mode: 0o755},
		{Name: "home/", Mode: 0o755},
		{Name: "home/tester/", Mode: 0o755, UID: 1000},
		{Name: "proc/", Mode: 0o555},
		{Name: "root/", Mode: 0o700},
		{Name: "sys/", Mode: 0o555},
		{Name: "tmp/", Mode: 0o1777},
		{Name: "var/", Mode: 0o755},
		{Name: "bin/busybox", Mode: 0o755, Data: program},
		{Name: "etc/passwd", Mode: 0o644, Data: []byte("root:x:0:0:root:/root:/bin/sh\ntester:x:1000:1000::/home/tester:/bin/sh\n")},
		{Name: "etc/group", Mode: 0o644, Data: []byte("root:x:0:\ntester:x:1000:\nextra:x:2000:tester\n")},
	}
	for _, applet := range strings.Fields(string(applets)) {
		if applet != "busybox" {
			files = append(files, File{Name: path.Join("bin", applet), Link: "busybox"})
		}
	}
	return Image{
		Ref:   ref,
		Files: files,
		Config: ImageConfig{
			Env: []string{"PATH=/bin"},
			Cmd: []string{"/bin/sh"},
		},
	}, nil
}

// descriptor points to a blob (image-spec, descriptor.md).
type descriptor struct {
	MediaType   string            `json:"mediaType"`
	Digest      string            `json:"digest"`
	Size        int64             `json:"size"`
	Platform    *platform         `json:"platform,omitempty"`
	Annotations map[string]string `json:"annotations,omitempty"`
}

type platform struct {
	Architecture string `json:"architecture"`
	OS           string `json:"os"`
}

type rootFS struct {
	Type    string   `json:"type"`
	DiffIDs []string `json:"diff_ids"`
}

type imageDocument struct {
	platform
	Config ImageConfig `json:"config"`
	RootFS rootFS      `json:"rootfs"`
}

type manifest struct {
	SchemaVersion int          `json:"schemaVersion"`
	MediaType     string       `json:"mediaType"`
	Config        descriptor   `json:"config"`
	Layers        []descriptor `json:"layers"`
}

type index struct {
	SchemaVersion int          `json:"schemaVersion"`
	Manifests     []descriptor `json:"manifests"`
}

const (
	manifestType = "application/vnd.oci.image.manifest.v1+json"
	configType   = "application/vnd.oci.image.config.v1+json"
	layerType    = "application/vnd.oci.image.layer.v1.tar"
)

// WriteImage writes the image as an archive of an OCI image layout
// (image-spec, image-layout.md), the same bytes for the same image.
func WriteImage(w io.Writer, image Image) error {
	layer, err := layerTar(image.Files)
	if err != nil {
		return fmt.Errorf("write image %s: %w", image.Ref, err)
	}
	here := platform{Architecture: runtime.GOARCH, OS: "linux"}
	config, err := json.Marshal(imageDocument{
		platform: here,
		Config:   image.Config,
		RootFS:   rootFS{Type: "layers", DiffIDs: []string{digest(layer)}},
	})
	if err != nil {
		return fmt.Errorf("write image %s: %w", image.Ref, err)
	}
	man, err := json.Marshal(manifest{
		SchemaVersion: 2,
		MediaType:     manifestType,
		Config:        describe(configType, config),
		Layers:        []descriptor{describe(layerType, layer)},
	})
	if err != nil {
		return fmt.Errorf("write image %s: %w", image.Ref, err)
	}
	entry := describe(manifestType, man)
	entry.Platform = &here
	entry.Annotations = map[string]string{"io.containerd.image.name": image.Ref}
	idx, err := json.Marshal(index{SchemaVersion: 2, Manifests: []descriptor{entry}})
	if err != nil {
		return fmt.Errorf("write image %s: %w", image.Ref, err)
	}

	out := tar.NewWriter(w)
	files := []File{
		{Name: "oci-layout", Mode: 0o644, Data: []byte(`{"imageLayoutVersion":"1.0.0"}`)},
		{Name: "index.json", Mode: 0o644, Data: idx},
		{Name: "blobs/", Mode: 0o755},
		{Name: "blobs/sha256/", Mode: 0o755},
	}
	for _, blob := range [][]byte{config, man, layer} {
		files = append(files, File{Name: "blobs/sha256/" + strings.TrimPrefix(digest(blob), "sha256:"), Mode: 0o644, Data: blob})
	}
	if err := writeFiles(out, files); err != nil {
		return fmt.Errorf("write image %s: %w", image.Ref, err)
	}
	return out.Close()
}

// WriteRootfs writes the image's files into the directory dir, which it makes.
func WriteRootfs(dir string, image Image) error {
	if err := os.Mkdir(dir, 0o755); err != nil {
		return fmt.Errorf("write a root file system: %w", err)
	}
	for _, f := range image.Files {
		name := filepath.Join(dir, f.Name)
		var err error
		switch {
		case strings.HasSuffix(f.Name, "/"):
			err = os.Mkdir(name, os.FileMode(f.Mode&0o777))
		case f.Link != "":
			err = os.Symlink(f.Link, name)
		default:
			err = os.WriteFile(name, f.Data, os.FileMode(f.Mode&0o777))
		}
		if err == nil {
			err = os.Lchown(name, f.UID, f.UID)
		}
		if err != nil {
			return fmt.Errorf("write a root file system: %w", err)
		}
	}
	return nil
}

func layerTar(files []File) ([]byte, error) {
	var b bytes.Buffer
	out := tar.NewWriter(&b)
	if err := writeFiles(out, files); err != nil {
		return nil, err
	}
	if err := out.Close(); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

func writeFiles(out *tar.Writer, files []File) error {
	for _, f := range files {
		h := &tar.Header{Name: f.Name, Mode: f.Mode, Size: int64(len(f.Data)), Typeflag: tar.TypeReg, Uid: f.UID, Gid: f.UID}
		switch {
		case strings.HasSuffix(f.Name, "/"):
			h.Typeflag = tar.TypeDir
		case f.Link != "":
			h.Typeflag, h.Linkname, h.Mode = tar.TypeSymlink, f.Link, 0o777
		}
		if err := out.WriteHeader(h); err != nil {
			return fmt.Errorf("%s: %w", f.Name, err)
		}
		if _, err := out.Write(f.Data); err != nil {
			return fmt.Errorf("%s: %w", f.Name, err)
		}
	}
	return nil
}

func describe(mediaType string, blob []byte) descriptor {
	return descriptor{MediaType: mediaType, Digest: digest(blob), Size: int64(len(blob))}
}

func digest(blob []byte) string {
	sum := sha256.Sum256(blob)
	return "sha256:" + hex.EncodeToString(sum[:])
}
