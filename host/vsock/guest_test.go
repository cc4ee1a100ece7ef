package vsock

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"path/filepath"
	"testing"
	"time"

	"kata/host/vhostuser/vhostusertest"
	"kata/test/pace"
)

const (
	guestCID  = 3
	queueSize = 64
	// roomSize is what Linux 6.1 offers for a packet.
	roomSize = 3776
)

// guest is the driver and the sockets of a guest, by hand.
type guest struct {
	*vhostusertest.VM
	tb  testing.TB
	dev *Device
	run chan error

	rx, tx *vhostusertest.Queue
	heads  map[uint16]uint64
	space  uint64 // for packets sent
	room   int
}

// connectVMM makes a device and a VMM that is connected to it.
func connectVMM(tb testing.TB, cfg Config) *guest {
	tb.Helper()
	cfg.Socket = filepath.Join(tb.TempDir(), "vsock")
	cfg.GuestCID = guestCID
	cfg.Log = slog.New(slog.DiscardHandler)
	dev, err := New(cfg)
	if err != nil {
		tb.Fatal(err)
	}
	g := &guest{tb: tb, dev: dev, run: make(chan error, 1), heads: map[uint16]uint64{}, room: roomSize}
	finished := make(chan struct{})
	go func() {
		defer close(finished)
		g.run <- dev.Run(context.Background())
	}()
	conn, err := net.Dial("unix", cfg.Socket)
	if err != nil {
		tb.Fatal(err)
	}
	g.VM = vhostusertest.New(tb, conn.(*net.UnixConn))
	tb.Cleanup(func() {
		if err := dev.Close(); err != nil {
			tb.Errorf("close device: %v", err)
		}
		<-finished
	})
	return g
}

// startGuest is connectVMM with a driver that is up and has buffers.
func startGuest(tb testing.TB, cfg Config) *guest {
	tb.Helper()
	g := connectVMM(tb, cfg)
	g.Boot(2, queueSize)
	g.attach()
	g.offer(queueSize)
	return g
}

func (g *guest) attach() {
	g.rx, g.tx = g.Queue(rxQueue), g.Queue(txQueue)
	g.space = g.Alloc(1 << 20)
}

// offer gives the device n receive buffers.
func (g *guest) offer(n int) {
	for range n {
		g.offerAt(g.Alloc(g.room))
	}
	g.rx.Kick()
}

func (g *guest) offerAt(addr uint64) {
	head := g.rx.OfferDescs([]vhostusertest.Desc{{Addr: addr, Len: uint32(g.room), Flags: vhostusertest.Write}}, g.Bytes(addr, g.room))
	g.heads[head] = addr
}

// receive returns the next packet from the host and offers its buffer again.
func (g *guest) receive() (header, []byte) {
	g.tb.Helper()
	h, data, err := g.tryReceive(vhostusertest.Timeout)
	if err != nil {
		g.tb.Fatalf("no packet from the host: %v", err)
	}
	return h, data
}

func (g *guest) tryReceive(limit time.Duration) (header, []byte, error) {
	b, err := g.rx.TryWait(limit)
	if err != nil {
		return header{}, nil, err
	}
	h := parseHeader((*[headerSize]byte)(b.Room))
	data := append([]byte(nil), b.Room[headerSize:b.Written]...)
	if int(h.size) != len(data) {
		g.tb.Errorf("packet says %d bytes and has %d", h.size, len(data))
	}
	g.offerAt(g.heads[b.Head])
	g.rx.Kick()
	return h, data, nil
}

// expect receives a packet and checks its operation and ports.
func (g *guest) expect(op uint16, local, peer uint32) (header, []byte) {
	g.tb.Helper()
	h, data := g.receive()
	if h.op != op || h.srcPort != local || h.dstPort != peer || h.srcCID != HostCID || h.dstCID != guestCID {
		g.tb.Fatalf("got packet %+v, want op %d from port %d to %d", h, op, local, peer)
	}
	return h, data
}

// quiet checks that the host sends nothing, after everything sent so far has
// been processed.
func (g *guest) quiet() {
	g.tb.Helper()
	// A packet to nowhere: its reset comes after whatever else comes.
	g.send(header{srcPort: 9, dstPort: 9, op: opCreditUpdate}, nil)
	if h, _ := g.receive(); h.op != opReset || h.srcPort != 9 {
		g.tb.Fatalf("unexpected packet %+v", h)
	}
}

// post sends a packet as it is, without waiting until the device has it.
func (g *guest) post(h header, data []byte) {
	var head [headerSize]byte
	h.marshal(&head)
	copy(g.Bytes(g.space, headerSize), head[:])
	copy(g.Bytes(g.space+headerSize, len(data)), data)
	g.tx.OfferDescs([]vhostusertest.Desc{
		{Addr: g.space, Len: headerSize},
		{Addr: g.space + headerSize, Len: uint32(len(data))},
	}, nil)
	g.tx.Kick()
}

// send sends a packet with the usual fields and waits until the device has
// taken it.
func (g *guest) send(h header, data []byte) {
	g.tb.Helper()
	g.post(g.fill(h, data), data)
	g.tx.Wait()
}

func (g *guest) fill(h header, data []byte) header {
	if h.srcCID == 0 {
		h.srcCID = guestCID
	}
	if h.dstCID == 0 {
		h.dstCID = HostCID
	}
	if h.typ == 0 {
		h.typ = typeStream
	}
	if h.bufAlloc == 0 {
		h.bufAlloc = 256 << 10
	}
	h.size = uint32(len(data))
	return h
}

// socket is one connection as the guest sees it.
type socket struct {
	*guest
	local, peer uint32 // guest's and host's port
	credit      uint32 // what the host granted
}

func (s *socket) send(op uint16, flags uint32, data []byte) {
	s.tb.Helper()
	s.guest.send(header{srcPort: s.local, dstPort: s.peer, op: op, flags: flags}, data)
}

func (s *socket) expect(op uint16) (header, []byte) {
	s.tb.Helper()
	return s.guest.expect(op, s.peer, s.local)
}

// dial connects the host to a port of the guest.
func (g *guest) dial(port uint32) (*Conn, *socket) {
	g.tb.Helper()
	type result struct {
		c   net.Conn
		err error
	}
	done := make(chan result, 1)
	go func() {
		c, err := g.dev.Dial(context.Background(), port)
		done <- result{c, err}
	}()
	h, _ := g.receive()
	if h.op != opRequest || h.dstPort != port {
		g.tb.Fatalf("got %+v, want a request for port %d", h, port)
	}
	s := &socket{guest: g, local: port, peer: h.srcPort, credit: h.bufAlloc}
	s.send(opResponse, 0, nil)
	r := <-done
	if r.err != nil {
		g.tb.Fatal(r.err)
	}
	return r.c.(*Conn), s
}

// connect connects the guest to a port of the host.
func (g *guest) connect(l net.Listener, from uint32) (*Conn, *socket) {
	g.tb.Helper()
	s := &socket{guest: g, local: from, peer: l.Addr().(*Addr).Port}
	s.send(opRequest, 0, nil)
	h, _ := s.expect(opResponse)
	s.credit = h.bufAlloc
	c, err := l.Accept()
	if err != nil {
		g.tb.Fatal(err)
	}
	return c.(*Conn), s
}

// end returns what Run does.
func (g *guest) end() error {
	g.tb.Helper()
	select {
	case err := <-g.run:
		return err
	case <-time.After(pace.Of(vhostusertest.Timeout)):
		g.tb.Fatal("Run does not return")
		return nil
	}
}

// count returns how many connections hold resources; no connection, no grant.
func (d *Device) count() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.used == 0 && d.granted != 0 {
		return -1
	}
	return d.used
}

// wantErr checks that err wraps want.
func wantErr(tb testing.TB, what string, err, want error) {
	tb.Helper()
	if !errors.Is(err, want) {
		tb.Errorf("%s = %v, want %v", what, err, want)
	}
}
