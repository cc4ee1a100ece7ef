package distro

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strconv"
	"strings"

	"kata/image/cache"
	"kata/image/progress"
)

// errUnknownPackage: apt has no list with it, perhaps because it has no lists.
var errUnknownPackage = errors.New("apt does not know it (apt-get update)")

// pkg is a package of the distribution.
type pkg struct {
	name, version, sha256 string
	size                  int // in bytes
}

// find asks apt for a package, and if that is there only for what it depends on,
// for the kernel's own.
func find(ctx context.Context, name string) (pkg, error) {
	fields, err := show(ctx, name)
	if err != nil {
		return pkg{}, err
	}
	if first, _, _ := strings.Cut(fields["Depends"], " "); strings.HasPrefix(first, "linux-image-") {
		if fields, err = show(ctx, first); err != nil {
			return pkg{}, err
		}
		name = first
	}
	size, _ := strconv.Atoi(fields["Size"]) // for the progress only
	return pkg{name, fields["Version"], fields["SHA256"], size}, nil
}

// show returns the fields of a package's newest version.
func show(ctx context.Context, name string) (map[string]string, error) {
	var stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, "apt-cache", "show", "--no-all-versions", name)
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		return nil, fmt.Errorf("package %s: %w", name, errUnknownPackage)
	}
	if err != nil {
		return nil, fmt.Errorf("package %s: %w", name, err)
	}
	fields := make(map[string]string)
	for line := range strings.Lines(string(out)) {
		if key, value, ok := strings.Cut(line, ": "); ok && key != "" && key[0] != ' ' {
			fields[key] = strings.TrimSpace(value)
		}
	}
	if fields["Version"] == "" {
		return nil, fmt.Errorf("package %s: %w", name, errUnknownPackage)
	}
	return fields, nil
}

// download fetches a package into a folder and returns its file.
func (o Options) download(ctx context.Context, p pkg, dir string) (string, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return "", err
	}
	defer r.Close()
	args := []string{"-q", "-o", "APT::Status-Fd=3"}
	if os.Geteuid() == 0 {
		args = append(args, "-o", "APT::Sandbox::User=root") // the folder is root's
	}
	cmd := exec.CommandContext(ctx, "apt-get", append(args, "download", p.name+"="+p.version)...)
	var output bytes.Buffer
	cmd.Dir, cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = dir, &output, &output, []*os.File{w}
	err = cmd.Start()
	w.Close()
	if err != nil {
		return "", fmt.Errorf("download %s: %w", p.name, err)
	}
	step := progress.New(o.Log, o.Terminal, "downloading "+p.name+" "+p.version, "MB")
	for lines := bufio.NewScanner(r); lines.Scan(); {
		// As "dlstatus:1:45.1234:Retrieving file 1 of 1".
		if words := strings.SplitN(lines.Text(), ":", 4); len(words) == 4 {
			if percent, err := strconv.ParseFloat(words[2], 64); err == nil {
				step.At(int(percent*float64(p.size)/100e6), int(float64(p.size)/1e6))
			}
		}
	}
	err = cmd.Wait()
	step.End(err == nil)
	if err != nil {
		return "", fmt.Errorf("download %s: %w\n%s", p.name, err, strings.TrimSpace(output.String()))
	}
	found, err := filepath.Glob(filepath.Join(dir, p.name+"_*.deb"))
	if err != nil || len(found) != 1 {
		return "", fmt.Errorf("download %s: %d files arrived", p.name, len(found))
	}
	sum, err := cache.HashFile(found[0])
	if err == nil && p.sha256 != "" && sum != p.sha256 {
		err = errors.New("its sum is not the one of apt's list")
	}
	if err != nil {
		return "", fmt.Errorf("download %s: %w", p.name, err)
	}
	return found[0], nil
}

// unpack takes the kernel and its modules out of a package.
func (o Options) unpack(ctx context.Context, deb, dir string) (f files, err error) {
	dir = filepath.Join(dir, "package")
	if err := os.RemoveAll(dir); err != nil { // of an interrupted one
		return f, err
	}
	step := progress.New(o.Log, o.Terminal, "unpacking the kernel's package", "MB")
	cmd := exec.CommandContext(ctx, "dpkg-deb", "--fsys-tarfile", deb)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return f, err
	}
	if err := cmd.Start(); err != nil {
		return f, fmt.Errorf("unpack %s: %w", deb, err)
	}
	// A package of 25 MB holds about 110.
	var total int64 = 1 << 20
	if info, err := os.Stat(deb); err == nil {
		total = info.Size() * 9 / 2
	}
	f, err = extract(&progress.Reader{R: stdout, Step: step, Total: total}, dir)
	if err != nil {
		_ = cmd.Process.Kill()
	}
	waited := cmd.Wait()
	step.End(err == nil && waited == nil)
	if ctx.Err() != nil {
		return f, context.Cause(ctx)
	}
	if waited != nil && stderr.Len() > 0 {
		return f, fmt.Errorf("unpack %s: %s", deb, bytes.TrimSpace(stderr.Bytes()))
	}
	if err = errors.Join(err, waited); err != nil {
		return f, fmt.Errorf("unpack %s: %w", deb, err)
	}
	if f.image == "" {
		return f, fmt.Errorf("package %s holds no kernel, boot/vmlinuz-*", filepath.Base(deb))
	}
	return f, nil
}

// extract writes the files of a kernel's package into a folder, and no others.
func extract(r io.Reader, dir string) (f files, err error) {
	for archive := tar.NewReader(r); ; {
		h, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return f, nil
		}
		if err != nil {
			return f, err
		}
		name := strings.TrimPrefix(path.Clean("/"+h.Name), "/")
		name = strings.TrimPrefix(name, "usr/") // where some distributions have lib
		to := filepath.Join(dir, name)
		switch {
		case h.Typeflag != tar.TypeReg:
			continue
		case strings.HasPrefix(name, "boot/vmlinuz-"):
			f.image = to
		case strings.HasPrefix(name, "boot/config-"):
			f.config = to
		case strings.HasPrefix(name, "lib/modules/") && strings.Count(name, "/") > 2:
			f.modules = filepath.Join(dir, "lib/modules", strings.Split(name, "/")[2])
		default:
			continue
		}
		if err := writeFile(to, archive); err != nil {
			return f, err
		}
	}
}

func writeFile(name string, from io.Reader) error {
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	w, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	_, err = io.Copy(w, from)
	return errors.Join(err, w.Close())
}
