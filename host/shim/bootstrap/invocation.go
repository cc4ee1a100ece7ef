// Package bootstrap is the command line of a containerd shim: "start", which
// leaves a server behind and prints its address, "delete", which cleans up
// after a server that is gone, and the questions -v and -info.
//
// It speaks the start protocol of every containerd from 1.6 to 2.4, which is
// why it is our own and not containerd's helper package, each release of which
// knows one generation. The server itself is host/shim.
package bootstrap

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"strings"
)

// The actions of a shim. Without one it is the server that Start has forked.
const (
	ActionStart  = "start"
	ActionDelete = "delete"
)

// The conversation of Start with the server, on a descriptor that it hands to
// it, a unix socket. The server says that it is Ready, or else why it cannot
// serve; Start answers Go when it has said where. Whoever finds the other gone
// before its word ends too, and removes what there is: containerd may kill
// Start at any moment.
const (
	StartFD = 3
	Ready   = "ready"
	Go      = "go"
)

// HostMountsFD is the descriptor of the mount namespace in which Start runs, which
// it hands to the server: that has one of its own.
const HostMountsFD = 4

// Invocation is how the shim was called.
type Invocation struct {
	Action        string
	Version, Info bool

	Namespace string
	ID        string
	// Address and TTRPCAddress are containerd's own sockets.
	Address, TTRPCAddress string
	PublishBinary         string
	// Bundle is the bundle's folder; empty means the working directory.
	Bundle string
	// Socket is where to serve. Start, unless it is told, chooses the
	// conventional place, and tells the server.
	Socket string
	Debug  bool
	// Config is the configuration file named by the runtime's options; Start
	// hands it to the server.
	Config string
}

// Parse reads the arguments that follow the program's name, and containerd's
// environment.
func Parse(args []string, getenv func(string) string) (Invocation, error) {
	var inv Invocation
	set := flag.NewFlagSet("containerd-shim-kata-v2", flag.ContinueOnError)
	set.SetOutput(io.Discard)
	set.StringVar(&inv.Namespace, "namespace", getenv("NAMESPACE"), "containerd namespace")
	set.StringVar(&inv.ID, "id", "", "id of the container")
	set.StringVar(&inv.Address, "address", getenv("GRPC_ADDRESS"), "containerd's gRPC socket")
	set.StringVar(&inv.PublishBinary, "publish-binary", "", "containerd's binary (events go to its socket)")
	set.StringVar(&inv.Bundle, "bundle", "", "bundle, if not the working directory")
	set.StringVar(&inv.Socket, "socket", "", "path of the socket to serve on")
	set.BoolVar(&inv.Debug, "debug", false, "log at debug level")
	set.StringVar(&inv.Config, "config", "", "configuration file; set by start, from the runtime's options")
	for _, name := range []string{"v", "version"} {
		set.BoolVar(&inv.Version, name, false, "print the version")
	}
	set.BoolVar(&inv.Info, "info", false, "print the runtime's description as protobuf")
	if err := set.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			err = fmt.Errorf("usage: %s [flags] [%s|%s]\n%s", set.Name(), ActionStart, ActionDelete, usage(set))
		}
		return inv, err
	}
	inv.TTRPCAddress = getenv("TTRPC_ADDRESS")
	inv.Action = set.Arg(0)
	return inv, inv.check(set.NArg())
}

func usage(set *flag.FlagSet) string {
	var b strings.Builder
	set.SetOutput(&b)
	set.PrintDefaults()
	return strings.TrimRight(b.String(), "\n")
}

func (inv *Invocation) check(args int) error {
	if inv.Version || inv.Info {
		return nil
	}
	switch {
	case args > 1:
		return errors.New("more than one action")
	case inv.Action != "" && inv.Action != ActionStart && inv.Action != ActionDelete:
		return fmt.Errorf("unknown action %q: there are %q and %q", inv.Action, ActionStart, ActionDelete)
	case inv.Namespace == "":
		return errors.New("no namespace: give -namespace")
	case inv.ID == "":
		return errors.New("no container: give -id")
	}
	if err := checkName("namespace", inv.Namespace); err != nil {
		return err
	}
	return checkName("container id", inv.ID)
}

// checkName refuses what would lead a path out of its folder.
func checkName(what, name string) error {
	if name == "." || name == ".." || strings.ContainsAny(name, "/\x00") {
		return fmt.Errorf("%s %q is not a name", what, name)
	}
	return nil
}
