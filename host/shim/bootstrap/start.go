package bootstrap

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"kata/host/shim/spec"
)

// Files that Start leaves in a bundle, by containerd's names.
const (
	addressFile = "address"  // of the shim that serves the bundle
	pidFile     = "shim.pid" // only in a sandbox's bundle
)

// Start prints the address of the shim for a container: that of its pod's, if
// it belongs to the pod of another, else that of a server that it leaves
// running. When it fails, nothing is left.
func Start(ctx context.Context, inv Invocation, stdin io.Reader, stdout io.Writer) error {
	bundle, err := inv.bundle()
	if err != nil {
		return err
	}
	p, err := readParams(stdin, inv)
	if err != nil {
		return err
	}
	inv.fill(p)
	annotations, err := spec.ReadAnnotations(bundle)
	if err != nil {
		return err
	}
	role, err := spec.RoleOf(annotations)
	if err != nil {
		return err
	}
	dir := socketDir(p.socketDir, bundle, inv)
	if role.Sandbox != "" {
		address, err := podAddress(bundle, dir, inv, role.Sandbox)
		if err != nil {
			return err
		}
		return announce(p, address, bundle, stdout)
	}
	path := inv.Socket
	if path == "" {
		path = socketPath(dir, inv, inv.ID)
	}
	return startServer(ctx, inv, p, bundle, path, stdout)
}

// fill takes from standard input what newer daemons say there.
func (inv *Invocation) fill(p params) {
	inv.Config = p.options.ConfigPath
	inv.Debug = inv.Debug || p.debug
	if inv.TTRPCAddress == "" {
		inv.TTRPCAddress = p.ttrpc
	}
	if inv.Address == "" {
		inv.Address = p.grpc
	}
}

func (inv *Invocation) bundle() (string, error) {
	if inv.Bundle != "" {
		return filepath.Abs(inv.Bundle)
	}
	dir, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("find the bundle: %w", err)
	}
	return dir, nil
}

// podAddress finds the shim that serves the sandbox: by the sandbox's bundle,
// which is next to the container's, or by the convention for its socket.
func podAddress(bundle, dir string, inv Invocation, sandbox string) (string, error) {
	if err := checkName("sandbox id", sandbox); err != nil {
		return "", err
	}
	addresses := []string{scheme + socketPath(dir, inv, sandbox)}
	if b, err := os.ReadFile(filepath.Join(filepath.Dir(bundle), sandbox, addressFile)); err == nil {
		addresses = append([]string{strings.TrimSpace(string(b))}, addresses...)
	}
	for _, a := range addresses {
		if alive(strings.TrimPrefix(a, scheme)) {
			return a, nil
		}
	}
	return "", fmt.Errorf("container %s belongs to sandbox %s, whose shim does not answer at %s", inv.ID, sandbox, strings.Join(addresses, " or "))
}

func startServer(ctx context.Context, inv Invocation, p params, bundle, path string, stdout io.Writer) (err error) {
	if err := checkFree(path); err != nil {
		return fmt.Errorf("serve container %s: %w", inv.ID, err)
	}
	inv.Socket = path
	server, err := fork(ctx, inv, bundle)
	if err != nil {
		return fmt.Errorf("start the server of container %s: %w", inv.ID, errors.Join(err, removeDead(path)))
	}
	defer server.conn.Close()
	defer func() {
		if err != nil {
			server.kill()
			err = errors.Join(err, removeFiles(bundle, addressFile, pidFile), removeDead(path))
		}
	}()
	server.adjustOOMScore()
	if err := writeFile(bundle, pidFile, fmt.Append(nil, server.pid())); err != nil {
		return err
	}
	if err := announce(p, scheme+path, bundle, stdout); err != nil {
		return err
	}
	if _, err := io.WriteString(server.conn, Go); err != nil {
		return fmt.Errorf("the server of container %s has ended: %w", inv.ID, err)
	}
	return nil
}

// removeDead removes the socket that a server has left which did not get to do
// it.
func removeDead(path string) error {
	if alive(path) {
		return nil
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// announce records the address in the bundle, for a containerd that restarts,
// and prints it. Nothing else is ever printed.
func announce(p params, address, bundle string, stdout io.Writer) error {
	answer, err := p.answer(address)
	if err != nil {
		return fmt.Errorf("encode the answer: %w", err)
	}
	if err := writeFile(bundle, addressFile, []byte(address)); err != nil {
		return err
	}
	if _, err := stdout.Write(answer); err != nil {
		return errors.Join(fmt.Errorf("print the address: %w", err), removeFiles(bundle, addressFile))
	}
	return nil
}
