package bootstrap

import (
	"fmt"
	"io"
	"strings"

	bootapi "github.com/containerd/containerd/api/runtime/bootstrap/v1"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"kata/host/shim/options"
)

// maxStdin bounds what containerd may write to a shim, in bytes.
const maxStdin = 1 << 20

// params is what containerd says on standard input.
type params struct {
	options options.Options
	// modern is set when containerd sent BootstrapParams, as it does from 2.3
	// on; it then reads a BootstrapResult. Others read a plain address, which
	// all of them understand.
	modern    bool
	debug     bool
	socketDir string
	ttrpc     string
	grpc      string
}

// readParams reads standard input: BootstrapParams, or the Any of the runtime's
// options, or nothing. Protobuf does not tell the first two apart, for an Any
// decodes as BootstrapParams too; that it is for this container in this
// namespace does.
func readParams(stdin io.Reader, inv Invocation) (params, error) {
	data, err := io.ReadAll(io.LimitReader(stdin, maxStdin+1))
	if err != nil {
		return params{}, fmt.Errorf("read standard input: %w", err)
	}
	if len(data) > maxStdin {
		return params{}, fmt.Errorf("standard input is longer than %d bytes", maxStdin)
	}
	if len(data) == 0 {
		return params{}, nil
	}
	boot := new(bootapi.BootstrapParams)
	if err := proto.Unmarshal(data, boot); err == nil && boot.GetInstanceID() == inv.ID && boot.GetNamespace() == inv.Namespace {
		return fromBootstrap(boot)
	}
	a := new(anypb.Any)
	if err := proto.Unmarshal(data, a); err != nil {
		return params{}, fmt.Errorf("standard input has neither runtime options nor bootstrap parameters of container %s: %w", inv.ID, err)
	}
	if len(a.ProtoReflect().GetUnknown()) > 0 || !strings.Contains(a.GetTypeUrl(), ".") {
		return params{}, fmt.Errorf("standard input has neither runtime options nor bootstrap parameters of container %s, but something of type %q", inv.ID, a.GetTypeUrl())
	}
	opts, err := options.Decode(a)
	return params{options: opts}, err
}

func fromBootstrap(boot *bootapi.BootstrapParams) (params, error) {
	p := params{
		modern:    true,
		debug:     boot.GetLogLevel() <= bootapi.LogLevel_LOG_LEVEL_DEBUG,
		socketDir: boot.GetSocketDir(),
		ttrpc:     boot.GetContainerdTtrpcAddress(),
		grpc:      boot.GetContainerdGrpcAddress(),
	}
	for _, e := range boot.GetExtensions() {
		if !strings.HasSuffix(e.GetValue().GetTypeUrl(), ".Options") {
			continue // for a feature that we do not know, and may leave alone
		}
		opts, err := options.Decode(e.GetValue())
		if err != nil {
			return p, err
		}
		if opts.Ignored == "" { // Create brings the others again, and logs them
			p.options = opts
		}
	}
	return p, nil
}

// answer is what Start prints for a server at address.
func (p *params) answer(address string) ([]byte, error) {
	if !p.modern {
		return []byte(address), nil
	}
	return proto.Marshal(&bootapi.BootstrapResult{Version: 3, Address: address, Protocol: "ttrpc"})
}
