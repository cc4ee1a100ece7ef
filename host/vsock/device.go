package vsock

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"syscall"

	"kata/host/vhostuser"
)

// ErrGone is wrapped by the errors of everything that fails because the
// virtual machine has gone or the device was closed.
var ErrGone = errors.New("virtual machine has gone")

// Config describes a device. The zero values of the bounds mean defaults.
type Config struct {
	// Socket is the path of the unix socket that the VMM connects to. It
	// must not exist.
	Socket string
	// GuestCID is the guest's context id, from 3. It need not be unique.
	GuestCID uint64
	// VMM, unless nil, returns the process id of the VMM, when it has connected:
	// the guest's memory is then reached in its address space, which a guest
	// needs whose memory is a private copy (vhostuser.ServeRemote). It is slower:
	// a system call an access.
	VMM func() int
	// Log receives what is odd but not an error of this process, at debug
	// level. Default none.
	Log *slog.Logger

	// MaxConns bounds the connections of both directions. Default 1024.
	MaxConns int
	// Backlog bounds the connections of a listener that wait to be
	// accepted. Default 64.
	Backlog int
	// ReceiveBuffer is how many bytes a connection holds for its reader.
	// Default 256 KiB, which is Linux's own.
	ReceiveBuffer int
	// ReceiveBudget bounds all receive buffers together; connections that
	// exceed it get small ones of 16 KiB. Default 64 MiB.
	ReceiveBudget int
}

const (
	defaultMaxConns      = 1024
	defaultBacklog       = 64
	defaultReceiveBuffer = 256 << 10
	defaultReceiveBudget = 64 << 20
	minReceiveBuffer     = 16 << 10
	maxReceiveBuffer     = 1 << 30

	// firstPort is where local ports of Dial start, above all ports that
	// anybody listens on by convention.
	firstPort = 1 << 16
)

func (c *Config) setDefaults() error {
	if c.GuestCID < minCID || c.GuestCID > maxCID {
		return fmt.Errorf("guest CID %d is not between %d and %d", c.GuestCID, minCID, maxCID)
	}
	for _, b := range []struct {
		v    *int
		def  int
		name string
	}{
		{&c.MaxConns, defaultMaxConns, "MaxConns"},
		{&c.Backlog, defaultBacklog, "Backlog"},
		{&c.ReceiveBuffer, defaultReceiveBuffer, "ReceiveBuffer"},
		{&c.ReceiveBudget, defaultReceiveBudget, "ReceiveBudget"},
	} {
		if *b.v < 0 {
			return fmt.Errorf("%s is negative: %d", b.name, *b.v)
		}
		if *b.v == 0 {
			*b.v = b.def
		}
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	c.ReceiveBuffer = min(max(c.ReceiveBuffer, minReceiveBuffer), maxReceiveBuffer)
	return nil
}

// key identifies a connection.
type key struct {
	local, peer uint32 // ports
}

// Device is a virtio-vsock device for one virtual machine. Its methods may be
// called from any goroutine.
type Device struct {
	cfg      Config
	log      *slog.Logger
	listener *vhostuser.Listener
	end      context.Context // ends with Close
	close    context.CancelFunc
	gone     chan struct{} // closed when the device is dead
	pool     pool
	rx       receiver

	queues []*vhostuser.Queue // set once, by Attach, before any other use

	mu        sync.Mutex
	dead      error         // why gone is closed
	up        [queues]bool  // queues that run
	ready     chan struct{} // closed while receive and transmit queue run
	taken     bool          // the guest had connections with an earlier back-end
	conns     map[key]*Conn
	used      int // connections that hold resources, in conns or not
	granted   int // bytes of receive buffer they may fill
	listeners map[uint32]*listener
	nextPort  uint32
}

// New makes a device and its socket. Close must be called in the end.
func New(cfg Config) (*Device, error) {
	if err := cfg.setDefaults(); err != nil {
		return nil, fmt.Errorf("vsock device: %w", err)
	}
	l, err := vhostuser.Listen(cfg.Socket)
	if err != nil {
		return nil, fmt.Errorf("vsock device: %w", err)
	}
	d := newDevice(cfg)
	d.listener = l
	return d, nil
}

// newDevice makes a device without a socket.
func newDevice(cfg Config) *Device {
	d := &Device{
		cfg:       cfg,
		log:       cfg.Log,
		gone:      make(chan struct{}),
		ready:     make(chan struct{}),
		pool:      pool{size: cfg.ReceiveBuffer},
		conns:     make(map[key]*Conn),
		listeners: make(map[uint32]*listener),
		nextPort:  firstPort,
	}
	d.end, d.close = context.WithCancel(context.Background())
	d.rx.wakeTransmit = func() {
		if d.queues != nil {
			d.queues[txQueue].Wake()
		}
	}
	return d
}

// Run waits for the VMM and serves it until it closes the connection (nil),
// ctx ends (its cause), Close is called (an error that wraps net.ErrClosed),
// or the guest or the VMM breaks a rule. The device is dead afterwards: every
// connection and every later call fails. It must be called once only.
func (d *Device) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stop := context.AfterFunc(d.end, func() { cancel(fmt.Errorf("vsock device: %w", net.ErrClosed)) })
	defer stop()

	conn, err := d.listener.Accept(ctx)
	if err == nil {
		d.log.Debug("VMM connected to vsock device")
		err = d.serve(ctx, conn)
	}
	if err != nil {
		err = fmt.Errorf("vsock device: %w", err)
	}
	d.fail(err)
	return err
}

// serve answers the VMM on conn, with the kind of memory that the configuration
// says.
func (d *Device) serve(ctx context.Context, conn *net.UnixConn) error {
	if d.cfg.VMM == nil {
		return vhostuser.Serve(ctx, conn, backend{d}, d.log)
	}
	return vhostuser.ServeRemote(ctx, conn, backend{d}, d.log, d.cfg.VMM())
}

// Close ends Run, fails everything that uses the device and removes its
// socket. Repeating it does nothing.
func (d *Device) Close() error {
	d.close()
	d.fail(net.ErrClosed)
	return d.listener.Close()
}

// fail makes the device dead. cause is nil if the VMM went in peace.
func (d *Device) fail(cause error) {
	d.mu.Lock()
	if d.dead != nil {
		d.mu.Unlock()
		return
	}
	d.dead = ErrGone
	if cause != nil {
		d.dead = fmt.Errorf("%w: %w", ErrGone, cause)
	}
	close(d.gone)
	conns := d.conns
	d.conns = make(map[key]*Conn)
	d.mu.Unlock()
	for _, c := range conns {
		c.kill(d.dead)
	}
}

// Dialer reaches ports of a guest, whichever way its VMM offers.
type Dialer interface {
	// Dial connects to a port of the guest. If nobody listens there, the
	// error wraps ECONNREFUSED. The connection's local address is an
	// *Addr with the port that the guest sees as its peer's.
	Dial(ctx context.Context, port uint32) (net.Conn, error)
	// Listen accepts connections of the guest to a port of the host.
	Listen(port uint32) (net.Listener, error)
}

// Dial implements [Dialer]. It waits until the guest's driver is up, but not until somebody listens: an error that wraps ECONNREFUSED says
// that nobody does. Other errors wrap ctx's cause, ErrGone, or ENOBUFS when a
// bound of the device is reached.
func (d *Device) Dial(ctx context.Context, port uint32) (net.Conn, error) {
	c, err := d.dial(ctx, port)
	if err != nil {
		return nil, &net.OpError{Op: "dial", Net: "vsock", Addr: &Addr{d.cfg.GuestCID, port}, Err: err}
	}
	return c, nil
}

func (d *Device) dial(ctx context.Context, port uint32) (*Conn, error) {
	if err := d.waitReady(ctx); err != nil {
		return nil, err
	}
	if d.rx.full() {
		return nil, fmt.Errorf("guest takes no packets: %w", syscall.ENOBUFS)
	}
	c, err := d.newConn(port)
	if err != nil {
		return nil, err
	}
	c.connect()
	select {
	case <-c.decided:
	case <-ctx.Done():
		c.abort(context.Cause(ctx))
	}
	if err := c.established(); err != nil {
		_ = c.Close() // it is dead; this gives its place back
		return nil, err
	}
	return c, nil
}

// waitReady waits until the guest's driver runs the queues.
func (d *Device) waitReady(ctx context.Context) error {
	d.mu.Lock()
	ready := d.ready
	d.mu.Unlock()
	select {
	case <-ready:
	case <-d.gone:
	case <-ctx.Done():
		return fmt.Errorf("wait for guest's vsock driver: %w", context.Cause(ctx))
	}
	return d.err()
}

// err returns why the device is dead, nil if it is not.
func (d *Device) err() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.dead
}

// newConn registers a connection to the guest's port from an unused one.
func (d *Device) newConn(peer uint32) (*Conn, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.dead != nil {
		return nil, d.dead
	}
	for {
		local := d.nextPort
		d.nextPort++
		if d.nextPort < firstPort || d.nextPort == 1<<32-1 { // -1 means "any port"
			d.nextPort = firstPort
		}
		k := key{local: local, peer: peer}
		if d.conns[k] == nil && d.listeners[local] == nil {
			return d.addConn(k)
		}
	}
}

// addConn makes a connection with mu held. Its resources are returned by
// release.
func (d *Device) addConn(k key) (*Conn, error) {
	if d.used >= d.cfg.MaxConns {
		return nil, fmt.Errorf("%d vsock connections: %w", d.used, syscall.ENOBUFS)
	}
	alloc := d.cfg.ReceiveBuffer
	if d.granted+alloc > d.cfg.ReceiveBudget {
		alloc = minReceiveBuffer
	}
	d.used++
	d.granted += alloc
	c := newConn(d, k, alloc)
	d.conns[k] = c
	return c, nil
}

// forget takes c out of the table, so that its packets are unknown.
func (d *Device) forget(c *Conn) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.conns[c.key] == c {
		delete(d.conns, c.key)
	}
}

// release returns what addConn took.
func (d *Device) release(c *Conn) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.used--
	d.granted -= c.recv.limit
}

// config is the device's configuration space (virtio 1.2, 5.10.4).
func (d *Device) config() []byte {
	return binary.LittleEndian.AppendUint64(nil, d.cfg.GuestCID)
}
