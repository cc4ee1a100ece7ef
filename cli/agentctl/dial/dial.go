// Package dial connects to an agent by the address that people type:
//
//	vsock://3:1024             a guest with a vsock of the host's kernel
//	hvsock:///run/x.sock:1024  a guest of a VMM with hybrid vsock
//	unix:///run/agent.sock     an agent outside a VM
//	unix://@name               the same, in the abstract namespace
//
// It makes one attempt and does not wait for an agent to come up. What speaks
// over the connection is the caller's business, and so is its end.
package dial

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"kata/host/vsock"
)

// Address says where an agent listens.
type Address struct {
	scheme string
	path   string // unix and hvsock
	cid    uint32 // vsock
	port   uint32 // vsock and hvsock
}

const (
	schemeVsock  = "vsock"
	schemeHybrid = "hvsock"
	schemeUnix   = "unix"
)

// maxSocketPath is what fits into struct sockaddr_un (unix(7)).
const maxSocketPath = 107

// Parse reads an address. The error shows the form that was expected.
func Parse(text string) (Address, error) {
	scheme, rest, _ := strings.Cut(text, "://")
	var a Address
	var err error
	switch scheme {
	case schemeVsock:
		a, err = parseVsock(rest)
	case schemeHybrid:
		a, err = parseHybrid(rest)
	case schemeUnix:
		a, err = parseUnix(rest)
	default:
		err = errors.New("it begins with none of vsock://, hvsock:// and unix://")
	}
	if err != nil {
		return Address{}, fmt.Errorf("server address %q: %w", text, err)
	}
	a.scheme = scheme
	return a, nil
}

func parseVsock(rest string) (Address, error) {
	cid, port, ok := strings.Cut(rest, ":")
	if !ok {
		return Address{}, errors.New("vsock://CID:PORT was expected, as vsock://3:1024")
	}
	c, err := strconv.ParseUint(cid, 10, 32)
	if err != nil || c == math.MaxUint32 {
		return Address{}, fmt.Errorf("CID %q is not the number of a guest", cid)
	}
	p, err := parsePort(port)
	return Address{cid: uint32(c), port: p}, err
}

func parseHybrid(rest string) (Address, error) {
	colon := strings.LastIndexByte(rest, ':')
	if colon < 0 {
		return Address{}, errors.New("hvsock://PATH:PORT was expected, as hvsock:///run/vm.sock:1024")
	}
	path := rest[:colon]
	if err := checkPath(path); err != nil {
		return Address{}, err
	}
	port, err := parsePort(rest[colon+1:])
	return Address{path: path, port: port}, err
}

func parseUnix(rest string) (Address, error) {
	if name, ok := strings.CutPrefix(rest, "@"); ok {
		if name == "" || len(name) > maxSocketPath {
			return Address{}, fmt.Errorf("the abstract name is not 1 to %d bytes", maxSocketPath)
		}
		return Address{path: rest}, nil
	}
	return Address{path: rest}, checkPath(rest)
}

func checkPath(path string) error {
	switch {
	case !filepath.IsAbs(path):
		return fmt.Errorf("path %q is not absolute", path)
	case len(path) > maxSocketPath:
		return fmt.Errorf("the path is longer than the %d bytes of a socket address", maxSocketPath)
	}
	return nil
}

func parsePort(text string) (uint32, error) {
	port, err := strconv.ParseUint(text, 10, 32)
	if err != nil || port == math.MaxUint32 {
		return 0, fmt.Errorf("port %q is not a vsock port", text)
	}
	return uint32(port), nil
}

// String returns the address as Parse takes it.
func (a Address) String() string {
	switch a.scheme {
	case schemeVsock:
		return fmt.Sprintf("vsock://%d:%d", a.cid, a.port)
	case schemeHybrid:
		return fmt.Sprintf("hvsock://%s:%d", a.path, a.port)
	}
	return "unix://" + a.path
}

// Dial connects. ctx bounds the attempt. The caller closes the connection, which
// makes reads and writes in progress return.
func (a Address) Dial(ctx context.Context) (io.ReadWriteCloser, error) {
	conn, err := a.dial(ctx)
	if err != nil {
		return nil, fmt.Errorf("connect to the agent at %s: %w", a, explain(a.scheme, err))
	}
	return conn, nil
}

func (a Address) dial(ctx context.Context) (io.ReadWriteCloser, error) {
	switch a.scheme {
	case schemeVsock:
		return dialVsock(ctx, a.cid, a.port)
	case schemeHybrid:
		return (&vsock.Hybrid{Path: a.path}).Dial(ctx, a.port)
	}
	var dialer net.Dialer
	return dialer.DialContext(ctx, "unix", a.path)
}

// explain reduces an error to its cause, the address being told already, and
// says what those of a vsock mean.
func explain(scheme string, err error) error {
	var op *net.OpError
	if errors.As(err, &op) {
		err = op.Err
	}
	if scheme != schemeVsock {
		return err
	}
	for _, known := range []struct {
		err  syscall.Errno
		hint string
	}{
		{unix.EAFNOSUPPORT, "this host's kernel has no vsock"},
		{unix.ENODEV, "there is no guest with that CID on this host's vsock"},
		{unix.ECONNRESET, "nothing listens on that port of the guest"},
	} {
		if errors.Is(err, known.err) {
			return fmt.Errorf("%w (%s)", err, known.hint)
		}
	}
	return err
}
