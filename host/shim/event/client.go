package event

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"

	events "github.com/containerd/containerd/api/services/ttrpc/events/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/ttrpc"
	"google.golang.org/grpc/status"
)

// namespaceHeader carries the namespace of a ttRPC call to containerd.
const namespaceHeader = "containerd-namespace-ttrpc"

// UnsentError tells how many events containerd did not take until the end.
type UnsentError struct{ Events int }

func (e *UnsentError) Error() string { return fmt.Sprintf("%d events were not sent", e.Events) }

// Client forwards events to the ttRPC socket of containerd. It connects when
// there is something to send, and again when the connection has broken. It is
// for one caller at a time, as Publisher is.
type Client struct {
	path   string
	client *ttrpc.Client
}

// NewClient returns a client of the socket that containerd names in
// TTRPC_ADDRESS, with or without "unix://".
func NewClient(address string) *Client {
	return &Client{path: strings.TrimPrefix(address, "unix://")}
}

// Forward sends the event. A connection that turns out to be broken is replaced
// at once, once.
func (c *Client) Forward(ctx context.Context, event *types.Envelope) error {
	fresh := c.client == nil
	err := c.forward(ctx, event)
	if !fresh && errors.Is(err, ttrpc.ErrClosed) {
		err = c.forward(ctx, event)
	}
	return err
}

func (c *Client) forward(ctx context.Context, event *types.Envelope) error {
	if c.client == nil {
		var dialer net.Dialer
		conn, err := dialer.DialContext(ctx, "unix", c.path)
		if err != nil {
			return err
		}
		c.client = ttrpc.NewClient(conn)
	}
	md := ttrpc.MD{}
	md.Set(namespaceHeader, event.Namespace)
	_, err := events.NewTTRPCEventsClient(c.client).Forward(ttrpc.WithMetadata(ctx, md), &events.ForwardRequest{Envelope: event})
	if _, answered := status.FromError(err); !answered {
		err = errors.Join(err, c.Close())
	}
	return err
}

// Close closes the connection, if there is one.
func (c *Client) Close() error {
	if c.client == nil {
		return nil
	}
	err := c.client.Close()
	c.client = nil
	return err
}

// Discard is the Forwarder where there is no containerd to tell.
type Discard struct{}

// Forward drops the event.
func (Discard) Forward(context.Context, *types.Envelope) error { return nil }

// Close does nothing.
func (Discard) Close() error { return nil }
