package stream

import (
	"context"
	"errors"
	"os"
	"sync"
	"time"

	"kata/guest/agent/log"
	"kata/guest/agent/vsock"
	"kata/lib/fmt"
)

// ErrClaimed is what a second claim of one port fails with.
var ErrClaimed = errors.New("port is already claimed")

// HubConfig are the bounds of a Hub.
type HubConfig struct {
	// MaxUnclaimed is how many connections may wait to be claimed; a further
	// one is closed at once.
	MaxUnclaimed int
	// Patience is how long a connection waits to be claimed.
	Patience time.Duration
	// Log gets a warning for each connection that is turned away.
	Log *log.Logger
}

// Hub matches connections with claims by the port of the host's side.
type Hub struct {
	cfg HubConfig

	mu        sync.Mutex // guards what follows, held across nothing that blocks
	unclaimed map[uint32]*arrival
	claims    map[uint32]chan *vsock.Conn // capacity 1; who removes one sends to it
	closed    bool
}

// arrival is a connection that nobody has claimed yet.
type arrival struct {
	conn    *vsock.Conn
	timeout *time.Timer
}

// NewHub returns a hub. Close releases what it holds.
func NewHub(cfg HubConfig) *Hub {
	return &Hub{cfg: cfg, unclaimed: make(map[uint32]*arrival), claims: make(map[uint32]chan *vsock.Conn)}
}

// Serve accepts connections until the listener is closed; it then returns nil.
func (h *Hub) Serve(l *vsock.Listener) error {
	for {
		conn, err := l.Accept()
		if errors.Is(err, os.ErrClosed) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := h.arrive(conn); err != nil {
			h.cfg.Log.Warn("stream connection turned away", "port", conn.PeerPort(), "error", err)
			_ = conn.Close()
		}
	}
}

// arrive hands conn to whoever claims its port, now or in time.
func (h *Hub) arrive(conn *vsock.Conn) error {
	port := conn.PeerPort()
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return os.ErrClosed
	}
	if claim, ok := h.claims[port]; ok {
		delete(h.claims, port)
		claim <- conn
		return nil
	}
	if _, ok := h.unclaimed[port]; ok {
		return errors.New("another connection from that port is waiting")
	}
	if len(h.unclaimed) >= h.cfg.MaxUnclaimed {
		return fmt.Errorf("%d connections are waiting to be claimed", len(h.unclaimed))
	}
	a := &arrival{conn: conn}
	a.timeout = time.AfterFunc(h.cfg.Patience, func() { h.expire(port, a) })
	h.unclaimed[port] = a
	return nil
}

// expire drops an arrival that nobody has claimed in time.
func (h *Hub) expire(port uint32, a *arrival) {
	h.mu.Lock()
	mine := h.unclaimed[port] == a
	if mine {
		delete(h.unclaimed, port)
	}
	h.mu.Unlock()
	if mine {
		h.cfg.Log.Warn("stream connection turned away", "port", port, "error", "no request named it in time")
		_ = a.conn.Close()
	}
}

// Claim returns the connection from the host's port, waiting for it until ctx
// ends. The caller owns it then.
func (h *Hub) Claim(ctx context.Context, port uint32) (*vsock.Conn, error) {
	claim, err := h.claim(port)
	if err != nil {
		return nil, fmt.Errorf("stream from port %d: %w", port, err)
	}
	select {
	case conn, ok := <-claim:
		if !ok {
			return nil, fmt.Errorf("stream from port %d: %w", port, os.ErrClosed)
		}
		return conn, nil
	case <-ctx.Done():
	}
	h.mu.Lock()
	if h.claims[port] == claim {
		delete(h.claims, port)
	}
	h.mu.Unlock()
	select {
	case conn, ok := <-claim: // came while the claim was being withdrawn
		if ok {
			_ = conn.Close()
		}
	default:
	}
	return nil, fmt.Errorf("stream from port %d has not been opened: %w", port, ctx.Err())
}

// claim returns a channel that has, or will get, the connection.
func (h *Hub) claim(port uint32) (chan *vsock.Conn, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return nil, os.ErrClosed
	}
	if _, ok := h.claims[port]; ok {
		return nil, ErrClaimed
	}
	claim := make(chan *vsock.Conn, 1)
	if a, ok := h.unclaimed[port]; ok {
		delete(h.unclaimed, port)
		a.timeout.Stop()
		claim <- a.conn
		return claim, nil
	}
	h.claims[port] = claim
	return claim, nil
}

// Close turns everything away that waits and whatever comes. It does not close
// the listener of Serve.
func (h *Hub) Close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.closed = true
	for _, a := range h.unclaimed {
		a.timeout.Stop()
		_ = a.conn.Close()
	}
	for _, claim := range h.claims {
		close(claim)
	}
	clear(h.unclaimed)
	clear(h.claims)
}
