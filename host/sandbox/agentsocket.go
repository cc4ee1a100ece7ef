package sandbox

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"kata/host/journal"
	"kata/host/undo"
	"kata/host/unixsocket"
	"kata/host/vsock"
)

// agentSocket is the name of the socket in the sandbox's folder through which
// root of the host reaches the guest's ports, in the way of a VMM's hybrid
// vsock: "CONNECT port\n" is answered by "OK port\n", and from then on the
// connection is the guest's; or it is closed.
const agentSocket = "agent.sock"

// Bounds of the agent socket.
const (
	maxPassages    = 32 // connections at a time
	maxConnectLine = 32 // bytes, "CONNECT 4294967295\n" at the longest
	connectTimeout = 10 * time.Second
	acceptPause    = 100 * time.Millisecond
)

// dialer connects to a port of the guest.
type dialer func(ctx context.Context, port uint32) (net.Conn, error)

// passages passes connections to a unix socket on to the guest.
type passages struct {
	listener *net.UnixListener
	dial     dialer
	log      *slog.Logger
	end      context.CancelFunc
	running  sync.WaitGroup
	slots    chan struct{}
}

func (s *Sandbox) startAgentSocket() error {
	path := filepath.Join(s.Dir(), agentSocket)
	if _, err := s.undo.Hold(journal.Socket{Path: path}, undo.Plain); err != nil {
		return err
	}
	p, err := servePassages(path, s.guest.Dial, s.log)
	if err != nil {
		return fmt.Errorf("serve the agent's socket: %w", err)
	}
	s.undo.Push("the agent's socket", undo.Plain, func(context.Context) error { return p.close() })
	return nil
}

// servePassages listens at path, for root alone, until close.
func servePassages(path string, dial dialer, log *slog.Logger) (*passages, error) {
	l, err := unixsocket.Listen(path)
	if err != nil {
		return nil, err
	}
	ctx, end := context.WithCancel(context.Background())
	p := &passages{listener: l, dial: dial, log: log, end: end, slots: make(chan struct{}, maxPassages)}
	p.running.Go(func() { p.serve(ctx) })
	return p, nil
}

// close ends all connections, waits for that, and removes the socket.
func (p *passages) close() error {
	p.end()
	err := p.listener.Close()
	if errors.Is(err, net.ErrClosed) {
		err = nil
	}
	p.running.Wait()
	return err
}

func (p *passages) serve(ctx context.Context) {
	for {
		conn, err := p.listener.AcceptUnix()
		switch {
		case ctx.Err() != nil:
			if err == nil {
				_ = conn.Close()
			}
			return
		case err != nil: // too many open files, say
			p.log.Warn("accept a connection for the agent", "error", err)
			select {
			case <-time.After(acceptPause):
			case <-ctx.Done():
			}
			continue
		}
		select {
		case p.slots <- struct{}{}:
		default:
			p.log.Warn("too many connections for the agent", "limit", maxPassages)
			_ = conn.Close()
			continue
		}
		p.running.Go(func() {
			defer func() { <-p.slots }()
			if err := p.pass(ctx, conn); err != nil {
				p.log.Debug("connection for the agent", "error", err)
			}
		})
	}
}

// pass serves one connection to its end.
func (p *passages) pass(ctx context.Context, conn *net.UnixConn) error {
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	if err := conn.SetDeadline(time.Now().Add(connectTimeout)); err != nil {
		return err
	}
	in := bufio.NewReaderSize(conn, maxConnectLine)
	port, err := readConnect(in)
	if err != nil {
		return err
	}
	guest, err := p.connect(ctx, port)
	if err != nil {
		return err
	}
	defer guest.Close()
	defer context.AfterFunc(ctx, func() { _ = guest.Close() })()
	if _, err := fmt.Fprintf(conn, "OK %d\n", localPort(guest)); err != nil {
		return err
	}
	if err := conn.SetDeadline(time.Time{}); err != nil {
		return err
	}
	return join(conn, in, guest)
}

func (p *passages) connect(ctx context.Context, port uint32) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	return p.dial(ctx, port)
}

// readConnect reads the line that names the port.
func readConnect(in *bufio.Reader) (uint32, error) {
	line, err := in.ReadSlice('\n')
	if err != nil {
		return 0, fmt.Errorf("read the port: %w", err)
	}
	digits, ok := strings.CutPrefix(strings.TrimSuffix(string(line), "\n"), "CONNECT ")
	port, err := strconv.ParseUint(digits, 10, 32)
	if !ok || err != nil {
		return 0, fmt.Errorf("%q does not name a port", line)
	}
	return uint32(port), nil
}

func localPort(conn net.Conn) uint32 {
	if addr, ok := conn.LocalAddr().(*vsock.Addr); ok {
		return addr.Port
	}
	return 0
}

// join copies both ways until both have ended, or one has failed. What the host
// has sent with the line that named the port is in in.
func join(host *net.UnixConn, in io.Reader, guest net.Conn) error {
	var both sync.WaitGroup
	var up, down error
	flow := func(to net.Conn, from io.Reader) error {
		_, err := io.Copy(to, from)
		if half, ok := to.(interface{ CloseWrite() error }); ok && err == nil {
			err = half.CloseWrite()
		}
		if err != nil { // nothing that still flows would arrive
			_, _ = host.Close(), guest.Close()
		}
		return err
	}
	both.Go(func() { up = flow(guest, in) })
	both.Go(func() { down = flow(host, guest) })
	both.Wait()
	return errors.Join(up, down)
}
