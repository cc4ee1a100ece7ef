package vsock

import (
	"bytes"
	"io"
	"syscall"
	"testing"
)

func TestWriterKeepsToTheGuestsCredit(t *testing.T) {
	g := startGuest(t, Config{})
	c, s := g.dial(1)
	credit := func(alloc, fwd uint32) {
		g.send(header{srcPort: s.local, dstPort: s.peer, op: opCreditUpdate, bufAlloc: alloc, fwdCnt: fwd}, nil)
	}
	credit(10, 0)
	done := make(chan error, 1)
	go func() {
		_, err := c.Write([]byte("0123456789abcdefghij!"))
		done <- err
	}()
	if _, data := s.expect(opData); string(data) != "0123456789" {
		t.Errorf("got %q", data)
	}
	g.quiet()
	credit(10, 4)
	if _, data := s.expect(opData); string(data) != "abcd" {
		t.Errorf("got %q", data)
	}
	// Claims that make no sense give no credit: more forwarded than was
	// sent, and a buffer that shrank below what is under way.
	credit(10, 15)
	g.quiet()
	credit(5, 8)
	g.quiet()
	credit(10, 14)
	if _, data := s.expect(opData); string(data) != "efghij!" {
		t.Errorf("got %q", data)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestCountersWrapAround(t *testing.T) {
	g := startGuest(t, Config{})
	c, s := g.dial(1)
	c.mu.Lock()
	c.sent, c.peerForwarded = 0xffff_fff0, 0xffff_fff0
	c.forwarded, c.told = 0xffff_fff0, 0xffff_fff0
	c.mu.Unlock()
	g.send(header{srcPort: s.local, dstPort: s.peer, op: opCreditUpdate, bufAlloc: 64, fwdCnt: 0xffff_fff0}, nil)
	if _, err := c.Write(make([]byte, 64)); err != nil {
		t.Fatal(err)
	}
	s.expect(opData)
	g.send(header{srcPort: s.local, dstPort: s.peer, op: opCreditUpdate, bufAlloc: 64, fwdCnt: 0x30}, nil)
	if _, err := c.Write(make([]byte, 64)); err != nil {
		t.Fatal(err)
	}
	s.expect(opData)
	g.send(header{srcPort: s.local, dstPort: s.peer, op: opData, fwdCnt: 0x70}, make([]byte, 64))
	if _, err := io.ReadFull(c, make([]byte, 64)); err != nil {
		t.Fatal(err)
	}
	s.send(opCreditRequest, 0, nil)
	if h, _ := s.expect(opCreditUpdate); h.fwdCnt != 0x30 {
		t.Errorf("forwarded %#x", h.fwdCnt)
	}
}

func TestReaderGrantsCredit(t *testing.T) {
	g := startGuest(t, Config{})
	c, s := g.dial(1)
	chunk := bytes.Repeat([]byte("0123456789abcdef"), 4096) // 64 KiB
	for range 4 {
		s.send(opData, 0, chunk)
	}
	s.send(opCreditRequest, 0, nil)
	if h, _ := s.expect(opCreditUpdate); h.bufAlloc != 256<<10 || h.fwdCnt != 0 {
		t.Errorf("credit %+v", h)
	}
	p := make([]byte, 64<<10)
	read := func() {
		t.Helper()
		if _, err := io.ReadFull(c, p); err != nil || !bytes.Equal(p, chunk) {
			t.Fatalf("chunk differs, %v", err)
		}
	}
	read()
	g.quiet() // a quarter is not worth a packet
	read()
	if h, _ := s.expect(opCreditUpdate); h.fwdCnt != 128<<10 {
		t.Errorf("forwarded %d", h.fwdCnt)
	}
	s.send(opData, 0, chunk)
	s.send(opData, 0, chunk)
	for range 4 {
		read()
	}
}

func TestGuestThatExceedsItsCreditIsReset(t *testing.T) {
	g := startGuest(t, Config{})
	c, s := g.dial(1)
	for range 4 {
		s.send(opData, 0, make([]byte, 64<<10))
	}
	s.send(opData, 0, []byte{1})
	s.expect(opReset)
	n, err := io.Copy(io.Discard, c)
	if n != 256<<10 {
		t.Errorf("read %d bytes", n)
	}
	wantErr(t, "Read", err, errProtocol)

	// One packet larger than the whole buffer.
	_, s = g.dial(2)
	s.send(opData, 0, make([]byte, 256<<10+1))
	s.expect(opReset)
}

// slow is a writer that shows when it is given data and waits for leave.
type slow struct {
	got   chan []byte
	leave chan int
}

func (w *slow) Write(p []byte) (int, error) {
	w.got <- bytes.Clone(p)
	if n := <-w.leave; n < len(p) {
		return n, io.ErrClosedPipe
	}
	return len(p), nil
}

func TestWriteTo(t *testing.T) {
	g := startGuest(t, Config{})
	c, s := g.dial(1)
	w := &slow{make(chan []byte), make(chan int)}
	type result struct {
		n   int64
		err error
	}
	done := make(chan result, 1)
	go func() {
		n, err := c.WriteTo(w)
		done <- result{n, err}
	}()
	s.send(opData, 0, []byte("abc"))
	if got := <-w.got; string(got) != "abc" {
		t.Errorf("wrote %q", got)
	}
	// More arrives while the writer has the first part, so much that the
	// buffer must grow.
	big := bytes.Repeat([]byte("x"), 64<<10)
	s.send(opData, 0, big)
	s.send(opData, 0, big)
	s.send(opShutdown, shutSend, nil)
	w.leave <- 3
	var rest []byte
	for len(rest) < len(big)*2 {
		p := <-w.got
		if len(p) > writeChunk {
			t.Errorf("chunk of %d bytes", len(p))
		}
		rest = append(rest, p...)
		w.leave <- len(p)
	}
	if r := <-done; r.err != nil || r.n != int64(3+2*len(big)) {
		t.Errorf("WriteTo = %d, %v", r.n, r.err)
	}
	if h, _ := s.expect(opCreditUpdate); h.fwdCnt < 128<<10 {
		t.Errorf("forwarded %d", h.fwdCnt)
	}

	// Closed while the writer has the buffer.
	c, s = g.dial(2)
	go func() {
		n, err := c.WriteTo(w)
		done <- result{n, err}
	}()
	s.send(opData, 0, big)
	got := <-w.got
	if err := c.CloseRead(); err != nil {
		t.Error(err)
	}
	if !bytes.Equal(got, big[:len(got)]) {
		t.Error("lent buffer changed")
	}
	w.leave <- len(got)
	if r := <-done; r.err != nil {
		t.Errorf("WriteTo = %d, %v", r.n, r.err)
	}
	s.expect(opShutdown)

	// A writer that fails.
	c, s = g.dial(3)
	go func() {
		n, err := c.WriteTo(w)
		done <- result{n, err}
	}()
	s.send(opData, 0, []byte("abc"))
	<-w.got
	w.leave <- 1
	if r := <-done; r.err != io.ErrClosedPipe || r.n != 1 {
		t.Errorf("WriteTo = %d, %v", r.n, r.err)
	}
	p := make([]byte, 9)
	if n, err := c.Read(p); string(p[:n]) != "bc" || err != nil {
		t.Errorf("then read %q, %v", p[:n], err)
	}
}

func TestBuffersAreBoundedAndGoBack(t *testing.T) {
	// Room for one full buffer; later connections get small ones.
	g := startGuest(t, Config{ReceiveBudget: 256 << 10})
	c1, s1 := g.dial(1)
	c2, s2 := g.dial(2)
	if s1.credit != 256<<10 || s2.credit != minReceiveBuffer {
		t.Errorf("granted %d and %d", s1.credit, s2.credit)
	}
	s2.send(opData, 0, make([]byte, minReceiveBuffer))
	s2.send(opData, 0, []byte{1})
	s2.expect(opReset)
	c2.Close()
	s1.send(opData, 0, make([]byte, 64<<10))
	if _, err := io.ReadFull(c1, make([]byte, 64<<10)); err != nil {
		t.Fatal(err)
	}
	holds := func() int {
		c1.mu.Lock()
		defer c1.mu.Unlock()
		return len(c1.recv.ring)
	}
	if n := holds(); n != 0 || len(g.dev.pool.free) != 1 {
		t.Errorf("idle connection holds %d bytes, pool %d buffers", n, len(g.dev.pool.free))
	}
	s1.send(opData, 0, []byte("small"))
	if n := holds(); n != smallBuffer {
		t.Errorf("small packet takes %d bytes", n)
	}
	c1.Close()
	s1.expect(opShutdown)
	s1.send(opReset, 0, nil)
	c3, s3 := g.dial(3)
	if s3.credit != 256<<10 {
		t.Errorf("granted %d after the first was closed", s3.credit)
	}
	c3.Close()
	s3.expect(opShutdown)
}

func TestConnectionsAreBounded(t *testing.T) {
	g := startGuest(t, Config{MaxConns: 3, Backlog: 2})
	l, err := g.dev.Listen(5)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for i := range uint32(3) {
		g.send(header{srcPort: 100 + i, dstPort: 5, op: opRequest}, nil)
		if i == 2 {
			g.expect(opReset, 5, 102) // backlog
			break
		}
		g.expect(opResponse, 5, 100+i)
	}
	g.dial(9)
	_, err = g.dev.Dial(t.Context(), 9)
	wantErr(t, "Dial", err, syscall.ENOBUFS)
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	g.send(header{srcPort: 103, dstPort: 5, op: opRequest}, nil)
	g.expect(opReset, 5, 103) // MaxConns
	// A closed connection counts until the guest agrees.
	c.Close()
	g.expect(opShutdown, 5, 100)
	g.send(header{srcPort: 104, dstPort: 5, op: opRequest}, nil)
	g.expect(opReset, 5, 104)
	g.send(header{srcPort: 100, dstPort: 5, op: opReset}, nil)
	g.send(header{srcPort: 105, dstPort: 5, op: opRequest}, nil)
	g.expect(opResponse, 5, 105)
}
