package vsock

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"math"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"kata/host/vhostuser"
	"kata/host/vhostuser/vhostusertest"
)

func TestOddPackets(t *testing.T) {
	g := startGuest(t, Config{})
	c, s := g.dial(1)
	tests := map[string]struct {
		h     header
		reply uint16 // 0 for none
	}{
		"data for nobody":             {header{srcPort: 8, dstPort: 8, op: opData}, opReset},
		"shutdown for nobody":         {header{srcPort: 8, dstPort: 8, op: opShutdown}, opReset},
		"reset for nobody":            {header{srcPort: 8, dstPort: 8, op: opReset}, 0},
		"request for nobody":          {header{srcPort: 8, dstPort: 8, op: opRequest}, opReset},
		"unknown operation":           {header{srcPort: 8, dstPort: 8, op: 77}, opReset},
		"operation 0":                 {header{srcPort: 8, dstPort: 8}, opReset},
		"SEQPACKET":                   {header{srcPort: 8, dstPort: 8, op: opRequest, typ: 2}, opReset},
		"unknown type":                {header{srcPort: s.local, dstPort: s.peer, op: opData, typ: 99}, opReset},
		"from a foreign CID":          {header{srcCID: 4, srcPort: s.local, dstPort: s.peer, op: opReset}, 0},
		"from our CID":                {header{srcCID: HostCID, srcPort: 8, dstPort: 8, op: opRequest}, 0},
		"to another guest":            {header{dstCID: 4, srcPort: 8, dstPort: 8, op: opRequest}, opReset},
		"to a CID beyond 32 bits":     {header{dstCID: 1<<32 | HostCID, srcPort: 8, dstPort: 8, op: opRequest}, opReset},
		"credit update for nobody":    {header{srcPort: 8, dstPort: 8, op: opCreditUpdate}, opReset},
		"empty data":                  {header{srcPort: s.local, dstPort: s.peer, op: opData}, 0},
		"shutdown of nothing":         {header{srcPort: s.local, dstPort: s.peer, op: opShutdown}, 0},
		"shutdown with unknown flags": {header{srcPort: s.local, dstPort: s.peer, op: opShutdown, flags: 0xfffffffc}, 0},
		"data with unknown flags":     {header{srcPort: s.local, dstPort: s.peer, op: opData, flags: 0xffffffff}, 0},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			g.send(test.h, nil)
			if test.reply != 0 {
				sent := g.fill(test.h, nil)
				h, _ := g.receive()
				if h.op != test.reply || h.srcPort != sent.dstPort || h.dstPort != sent.srcPort || h.typ != sent.typ || h.srcCID != sent.dstCID {
					t.Errorf("reply %+v", h)
				}
			}
			g.quiet()
		})
	}
	s.send(opData, 0, []byte("alive"))
	p := make([]byte, 9)
	if n, err := c.Read(p); string(p[:n]) != "alive" || err != nil {
		t.Errorf("read %q, %v", p[:n], err)
	}
}

func TestViolationsResetTheConnection(t *testing.T) {
	for name, do := range map[string]func(s *socket){
		"second response":     func(s *socket) { s.send(opResponse, 0, nil) },
		"request in between":  func(s *socket) { s.send(opRequest, 0, nil) },
		"unknown operation":   func(s *socket) { s.send(8, 0, nil) },
		"data after shutdown": func(s *socket) { s.send(opShutdown, shutSend, nil); s.send(opData, 0, []byte("x")) },
	} {
		t.Run(name, func(t *testing.T) {
			g := startGuest(t, Config{})
			c, s := g.dial(1)
			do(s)
			s.expect(opReset)
			_, err := c.Write([]byte("x"))
			wantErr(t, "Write", err, errProtocol)
			if c.Close() != nil || g.dev.count() != 0 {
				t.Errorf("%d connections left", g.dev.count())
			}
			g.quiet()
		})
	}
	t.Run("data before the response", func(t *testing.T) {
		g := startGuest(t, Config{})
		done := make(chan error, 1)
		go func() {
			_, err := g.dev.Dial(context.Background(), 7)
			done <- err
		}()
		h, _ := g.receive()
		g.send(header{srcPort: 7, dstPort: h.srcPort, op: opData}, []byte("x"))
		g.expect(opReset, h.srcPort, 7)
		wantErr(t, "Dial", <-done, errProtocol)
	})
}

// TestBrokenDrivers breaks the device's own rules: Run ends with an error.
func TestBrokenDrivers(t *testing.T) {
	for name, do := range map[string]func(g *guest){
		"packet shorter than its header": func(g *guest) {
			g.tx.Offer([][]byte{make([]byte, headerSize-1)}, 0)
			g.tx.Kick()
		},
		"packet without bytes": func(g *guest) {
			g.tx.Offer(nil, 100)
			g.tx.Kick()
		},
		"packet that claims more data than it has": func(g *guest) {
			g.post(header{srcCID: guestCID, dstCID: HostCID, typ: typeStream, op: opData, size: 5}, []byte("abcd"))
		},
		"packet that claims 4 GiB": func(g *guest) {
			g.post(header{srcCID: guestCID, dstCID: HostCID, typ: typeStream, op: opData, size: math.MaxUint32}, []byte("abcd"))
		},
		"receive buffer smaller than a header": func(g *guest) {
			g.rx.Offer(nil, headerSize-1)
			g.post(g.fill(header{srcPort: 8, dstPort: 8, op: opRequest}, nil), nil)
		},
		"receive buffer without room": func(g *guest) {
			g.rx.Offer([][]byte{make([]byte, 100)}, 0)
			g.post(g.fill(header{srcPort: 8, dstPort: 8, op: opRequest}, nil), nil)
		},
	} {
		t.Run(name, func(t *testing.T) {
			g := connectVMM(t, Config{})
			g.Boot(2, queueSize)
			g.attach()
			do(g)
			err := g.end()
			wantErr(t, "Run", err, vhostuser.ErrDriver)
			_, err = g.dev.Dial(context.Background(), 1)
			wantErr(t, "Dial", err, ErrGone)
			wantErr(t, "Dial", err, vhostuser.ErrDriver)
		})
	}
	t.Run("receive buffer without room for data", func(t *testing.T) {
		g := connectVMM(t, Config{})
		g.Boot(2, queueSize)
		g.attach()
		g.room = headerSize
		g.offer(4)
		c, _ := g.dial(1)
		_, err := c.Write([]byte("x"))
		wantErr(t, "Write", err, vhostuser.ErrDriver)
		wantErr(t, "Run", g.end(), vhostuser.ErrDriver)
		_, err = c.Read(make([]byte, 1))
		wantErr(t, "Read", err, ErrGone)
	})
}

func TestRepliesThatTheGuestDoesNotTakeAreBounded(t *testing.T) {
	g := connectVMM(t, Config{})
	g.Boot(2, queueSize)
	g.attach()
	// No receive buffers: every request calls for a reset that cannot go.
	const n = 40 * queueSize
	for i := range uint32(n) {
		if i >= replyLimit {
			break
		}
		g.send(header{srcPort: i, dstPort: 1, op: opRequest}, nil)
	}
	for i := range uint32(queueSize / 2) {
		g.post(g.fill(header{srcPort: replyLimit + i, dstPort: 1, op: opRequest}, nil), nil)
	}
	if _, ok := g.tx.Take(); ok {
		t.Error("device takes packets whose replies have no room")
	}
	if got := g.dev.rx.pending.Load(); got != replyLimit {
		t.Errorf("%d replies wait", got)
	}
	g.offer(queueSize)
	for i := range uint32(replyLimit) {
		g.expect(opReset, 1, i)
	}
	for range queueSize / 2 {
		g.tx.Wait() // it goes on
	}
}

func TestPausedMachineKeepsItsConnections(t *testing.T) {
	g := startGuest(t, Config{})
	c, s := g.dial(1)
	g.Stop(rxQueue)
	g.Stop(txQueue)
	done := make(chan error, 1)
	go func() {
		_, err := c.Write([]byte("patience"))
		done <- err
	}()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_, err := g.dev.Dial(ctx, 2)
	wantErr(t, "Dial", err, context.Canceled)
	g.Start(rxQueue)
	g.Start(txQueue)
	if _, data := s.expect(opData); string(data) != "patience" {
		t.Errorf("guest got %q", data)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
	s.send(opData, 0, []byte("thanks"))
	p := make([]byte, 9)
	if n, err := c.Read(p); string(p[:n]) != "thanks" || err != nil {
		t.Errorf("read %q, %v", p[:n], err)
	}
}

func TestRestartedGuestLosesItsConnections(t *testing.T) {
	g := startGuest(t, Config{})
	c, _ := g.dial(1)
	l, err := g.dev.Listen(1028)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for _, i := range []int{rxQueue, txQueue} {
		g.Stop(i)
		g.Queue(i).Reset()
	}
	for _, i := range []int{rxQueue, txQueue} {
		g.Start(i)
	}
	_, err = c.Read(make([]byte, 1))
	wantErr(t, "Read", err, syscall.ECONNRESET)
	g.offer(4)
	g.dial(2)
	g.connect(l, 70)
}

func TestDriverOfAnotherBackEndIsToldOfTheLoss(t *testing.T) {
	g := connectVMM(t, Config{})
	g.Negotiate()
	g.ShareMemory()
	for i := range queues {
		q := g.AddQueue(i, queueSize)
		if i != eventQueue {
			copy(g.Bytes(q.UsedAddr+2, 2), []byte{1, 1})
			q.SetAvailIdx(0x101)
		}
		g.Start(i)
	}
	g.Queue(eventQueue).Offer(nil, 8)
	g.Queue(eventQueue).Kick()
	if b := g.Queue(eventQueue).Wait(); b.Written != 4 || b.Room[0] != eventTransportReset {
		t.Errorf("event %+v", b)
	}
	g.Queue(eventQueue).Offer(nil, 8)
	g.Queue(eventQueue).Kick()
}

func TestEndOfTheVMM(t *testing.T) {
	g := startGuest(t, Config{})
	c, s := g.dial(1)
	l, err := g.dev.Listen(1028)
	if err != nil {
		t.Fatal(err)
	}
	s.send(opData, 0, []byte("last words"))
	var wg sync.WaitGroup
	wg.Go(func() {
		_, err := l.Accept()
		wantErr(t, "Accept", err, ErrGone)
	})
	wg.Go(func() {
		_, err := c.Write(make([]byte, 1<<20))
		wantErr(t, "Write", err, ErrGone)
	})
	wg.Go(func() {
		_, err := g.dev.Dial(context.Background(), 2)
		wantErr(t, "Dial", err, ErrGone)
	})
	s.receive()
	g.Conn.Close()
	if err := g.end(); err != nil {
		t.Errorf("Run = %v", err)
	}
	wg.Wait()
	got, err := io.ReadAll(c)
	if string(got) != "last words" {
		t.Errorf("read %q", got)
	}
	wantErr(t, "Read", err, ErrGone)
	_, err = g.dev.Listen(7)
	wantErr(t, "Listen", err, ErrGone)
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	if n := g.dev.count(); n != 0 {
		t.Errorf("%d connections left", n)
	}
}

func TestCloseOfTheDevice(t *testing.T) {
	g := startGuest(t, Config{})
	c, _ := g.dial(1)
	if err := g.dev.Close(); err != nil {
		t.Error(err)
	}
	wantErr(t, "Run", g.end(), net.ErrClosed)
	_, err := c.Read(make([]byte, 1))
	wantErr(t, "Read", err, ErrGone)
	_, err = g.dev.Dial(context.Background(), 1)
	wantErr(t, "Dial", err, ErrGone)
}

func TestNew(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	dir := t.TempDir()
	for name, test := range map[string]struct {
		cfg  Config
		want string
	}{
		"reserved CID":   {Config{Socket: dir + "/a", GuestCID: 2, Log: log}, "guest CID 2"},
		"CID too large":  {Config{Socket: dir + "/a", GuestCID: 1 << 32, Log: log}, "guest CID 4294967296"},
		"negative bound": {Config{Socket: dir + "/a", GuestCID: 3, Backlog: -1, Log: log}, "Backlog is negative"},
		"no directory":   {Config{Socket: dir + "/no/a", GuestCID: 3, Log: log}, "no such file"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := New(test.cfg)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("New = %v", err)
			}
		})
	}
	// Never run.
	d, err := New(Config{Socket: filepath.Join(dir, "b"), GuestCID: 3, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	}
	if err := d.Run(context.Background()); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Run after Close = %v", err)
	}
}

// FuzzPackets lets a guest with one connection send arbitrary packets, between
// which the host reads and writes. The device may reset connections and must
// survive.
func FuzzPackets(f *testing.F) {
	seed := func(hs ...header) []byte {
		var all []byte
		for _, h := range hs {
			var b [headerSize]byte
			h.marshal(&b)
			all = append(all, b[:]...)
		}
		return all
	}
	known := header{srcCID: guestCID, dstCID: HostCID, srcPort: 1, dstPort: firstPort, typ: typeStream, bufAlloc: 1000}
	for op := range uint16(9) {
		h := known
		h.op, h.size, h.flags = op, 10, 3
		stranger := h
		stranger.dstPort = 1028
		f.Add(seed(stranger, h, h))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		g := startGuest(t, Config{ReceiveBuffer: minReceiveBuffer, MaxConns: 4, Backlog: 1})
		c, _ := g.dial(1)
		l, err := g.dev.Listen(1028)
		if err != nil {
			t.Fatal(err)
		}
		// The host reads and writes in turn with the guest, without waiting:
		// the same input takes the same way.
		host := func() {
			c.mu.Lock()
			defer c.unlock()
			c.consumed(c.recv.read(make([]byte, 100)))
			if c.writeErr() == nil {
				if _, err := g.dev.rx.write(c, make([]byte, 100)); err != nil {
					t.Fatal(err)
				}
			}
		}
		for i := 0; len(data) >= headerSize && i < 2*queueSize; i++ {
			var b [headerSize]byte
			data = data[copy(b[:], data):]
			h := parseHeader(&b)
			h.size %= 1 << 15 // what is there; the lie is TestBrokenDrivers'
			g.post(h, make([]byte, h.size))
			if _, err := g.tx.TryWait(vhostusertest.Timeout); err != nil {
				t.Fatalf("device is stuck: %v", err)
			}
			host()
			for {
				b, ok := g.rx.Take()
				if !ok {
					break
				}
				g.offerAt(g.heads[b.Head])
			}
			g.rx.Kick()
		}
		if err := errors.Join(l.Close(), c.Close()); err != nil {
			t.Fatal(err)
		}
		g.Conn.Close()
		if err := g.end(); err != nil {
			t.Fatal(err)
		}
		if n := g.dev.count(); n != 0 {
			t.Fatalf("%d connections left", n)
		}
	})
}
