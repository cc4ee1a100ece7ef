package vhostuser

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"kata/host/vhostuser/vhostusertest"
	"kata/test/pace"
)

// taker is a device that hands its requests to whoever wants them.
type taker struct {
	queues   []*Queue
	requests chan *Request
	cancel   chan int
}

func newTaker() *taker { return &taker{requests: make(chan *Request, 64), cancel: make(chan int, 8)} }

func (d *taker) Features() uint64   { return 0 }
func (d *taker) Queues() int        { return 1 }
func (d *taker) Config() []byte     { return nil }
func (d *taker) Attach(qs []*Queue) { d.queues = qs }
func (d *taker) Started(int, Start) {}
func (d *taker) Stopped(int)        {}
func (d *taker) Cancel(i int)       { d.cancel <- i }

func (d *taker) Available(i int) error {
	return d.queues[i].Do(func(b *Batch) error {
		for {
			c, err := b.Next()
			if c == nil || err != nil {
				return err
			}
			d.requests <- b.Take(c)
		}
	})
}

// next returns the next request, and its text.
func (d *taker) next(t *testing.T) (*Request, string) {
	t.Helper()
	select {
	case r := <-d.requests:
		p := make([]byte, r.Readable())
		if _, err := r.Read(p); err != nil {
			t.Fatal(err)
		}
		return r, string(p)
	case <-time.After(pace.Of(vhostusertest.Timeout)):
		t.Fatal("no request comes")
		return nil, ""
	}
}

// answer gives a request back with a text.
func answer(t *testing.T, r *Request, text string) {
	t.Helper()
	n, err := r.Write([]byte(text))
	if err == nil {
		err = r.Done(uint32(n))
	}
	if err != nil {
		t.Fatal(err)
	}
}

func TestRequestsDoneOutOfOrder(t *testing.T) {
	dev := newTaker()
	s := serve(t, dev)
	s.Boot(1, 8)
	q := s.Queue(0)
	heads := map[uint16]string{}
	for i := range 4 {
		heads[q.Offer([][]byte{fmt.Appendf(nil, "request %d", i)}, 64)] = fmt.Sprintf("answer %d", i)
	}
	q.Kick()
	var requests []*Request
	for i := range 4 {
		r, text := dev.next(t)
		if want := fmt.Sprintf("request %d", i); text != want {
			t.Fatalf("request %d reads %q", i, text)
		}
		requests = append(requests, r)
	}
	for _, i := range []int{2, 0, 3, 1} {
		answer(t, requests[i], fmt.Sprintf("answer %d", i))
		b := q.Wait()
		if got := string(b.Room[:b.Written]); got != fmt.Sprintf("answer %d", i) || heads[b.Head] != got {
			t.Fatalf("the driver got %q for what wants %q", got, heads[b.Head])
		}
	}
	s.roundTripTaken(t, dev)
	if err := s.hangUp(); err != nil {
		t.Fatal(err)
	}
}

// roundTripTaken shows that the queue works.
func (s *served) roundTripTaken(t *testing.T, dev *taker) {
	t.Helper()
	q := s.Queue(0)
	q.Offer([][]byte{[]byte("still")}, 64)
	q.Kick()
	r, _ := dev.next(t)
	answer(t, r, "there")
	if b := q.Wait(); string(b.Room[:b.Written]) != "there" {
		t.Fatalf("the driver got %q", b.Room[:b.Written])
	}
}

// TestRequestOutlivesItsMemoryTable replaces the table while a request is out: the
// VMM is answered at once, and the request goes on with the memory that it had.
func TestRequestOutlivesItsMemoryTable(t *testing.T) {
	dev := newTaker()
	s := serve(t, dev)
	s.Boot(1, 8)
	q := s.Queue(0)
	q.Offer([][]byte{[]byte("before")}, 64)
	q.Kick()
	r, _ := dev.next(t)
	for range 3 {
		s.ShareMemory()
	}
	answer(t, r, "after")
	if b := q.Wait(); string(b.Room[:b.Written]) != "after" {
		t.Fatalf("the driver got %q", b.Room[:b.Written])
	}
	s.roundTripTaken(t, dev)
}

// TestQueueStopsWhenItsRequestsAreDone also shows that the device is told.
func TestQueueStopsWhenItsRequestsAreDone(t *testing.T) {
	dev := newTaker()
	s := serve(t, dev)
	s.Boot(1, 8)
	q := s.Queue(0)
	q.Offer([][]byte{[]byte("slow")}, 64)
	q.Kick()
	r, _ := dev.next(t)
	stopped := make(chan []byte, 1)
	go func() { stopped <- s.Get(vhostusertest.GetVringBase, vhostusertest.State(0, 0)) }()
	<-dev.cancel
	select {
	case <-stopped:
		t.Fatal("the queue has stopped with a request out")
	default:
	}
	answer(t, r, "late")
	if reply := <-stopped; string(reply) != string(vhostusertest.State(0, 1)) {
		t.Errorf("it stopped at %v", reply)
	}
	if b := q.Wait(); string(b.Room[:b.Written]) != "late" {
		t.Errorf("the driver got %q", b.Room[:b.Written])
	}
}

// TestSessionEndsWhenItsRequestsAreDone hangs up with a request out.
func TestSessionEndsWhenItsRequestsAreDone(t *testing.T) {
	dev := newTaker()
	s := serve(t, dev)
	s.Boot(1, 8)
	q := s.Queue(0)
	q.Offer([][]byte{[]byte("slow")}, 64)
	q.Kick()
	r, _ := dev.next(t)
	s.Conn.Close()
	<-dev.cancel
	answer(t, r, "nobody listens")
	if err := s.end(); err != nil {
		t.Error(err)
	}
}

// TestDriverThatOffersWhatItHasNotGotBack must not make a device hold more than a
// queue has.
func TestDriverThatOffersWhatItHasNotGotBack(t *testing.T) {
	dev := newTaker()
	s := serve(t, dev)
	s.Boot(1, 8)
	q := s.Queue(0)
	var requests []*Request
	q.Offer([][]byte{[]byte("again")}, 64)
	q.SetAvailIdx(8) // the ring's other entries name the same head, 0
	q.Kick()
	for range 8 {
		r, _ := dev.next(t)
		requests = append(requests, r)
	}
	q.SetAvailIdx(9)
	q.Kick()
	<-dev.cancel // the session ends, and waits
	for _, r := range requests {
		if err := r.Done(0); !errors.Is(err, ErrDriver) {
			t.Errorf("Done after the driver's fault: %v", err)
		}
	}
	if err := s.end(); !errors.Is(err, ErrDriver) || !strings.Contains(err.Error(), errFull.Error()) {
		t.Errorf("Serve = %v", err)
	}
}
