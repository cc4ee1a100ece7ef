package vhostuser

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"log/slog"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"kata/host/vhostuser/vhostusertest"
	"kata/test/pace"
)

// echo is a device that writes back what it reads, on every queue.
type echo struct {
	queues []*Queue

	mu     sync.Mutex
	events []string
}

func (e *echo) Features() uint64   { return 0 }
func (e *echo) Queues() int        { return 2 }
func (e *echo) Config() []byte     { return []byte{1, 2, 3, 4, 5, 6, 7, 8} }
func (e *echo) Attach(qs []*Queue) { e.queues = qs }

func (e *echo) event(s string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.events = append(e.events, s)
}

func (e *echo) Started(_ int, how Start) {
	e.event([]string{"fresh", "resumed", "taken over"}[how])
}

func (e *echo) Stopped(int) { e.event("stopped") }

func (e *echo) Available(i int) error {
	return e.queues[i].Do(func(b *Batch) error {
		for { // Next ends the loop even for a driver that never rests
			c, err := b.Next()
			if c == nil || err != nil {
				return err
			}
			p := make([]byte, min(c.Readable(), 1<<16))
			if _, err := c.Read(p); err != nil {
				return err
			}
			n, err := c.Write(p)
			if err != nil {
				return err
			}
			if err := b.Done(c, uint32(n)); err != nil {
				return err
			}
			if err := b.Flush(); err != nil {
				return err
			}
		}
	})
}

// served is a session under test.
type served struct {
	*vhostusertest.VM
	done chan error
	stop context.CancelCauseFunc
}

// serve runs Serve for dev and returns its VM.
func serve(t testing.TB, dev Device) *served {
	t.Helper()
	front, back := vhostusertest.Pair(t)
	ctx, stop := context.WithCancelCause(context.Background())
	s := &served{VM: vhostusertest.New(t, front), done: make(chan error, 1), stop: stop}
	finished := make(chan struct{})
	go func() {
		defer close(finished)
		s.done <- Serve(ctx, back, dev, slog.New(slog.DiscardHandler))
	}()
	t.Cleanup(func() {
		front.Close()
		<-finished
		stop(nil)
	})
	return s
}

// end returns what Serve does.
func (s *served) end() error {
	s.TB.Helper()
	select {
	case err := <-s.done:
		return err
	case <-time.After(pace.Of(vhostusertest.Timeout)):
		s.TB.Fatal("Serve does not return")
		return nil
	}
}

// hangUp closes the VMM's connection and returns what Serve does.
func (s *served) hangUp() error {
	s.TB.Helper()
	s.Conn.Close()
	return s.end()
}

// roundTrip sends a message through the echo on queue i.
func (s *served) roundTrip(i int, msg string) {
	s.TB.Helper()
	q := s.Queue(i)
	q.Offer([][]byte{[]byte(msg)}, 64)
	q.Kick()
	if b := q.Wait(); string(b.Room[:b.Written]) != msg {
		s.TB.Fatalf("echo of %q is %q", msg, b.Room[:b.Written])
	}
}

func TestEchoThroughARing(t *testing.T) {
	for name, features := range map[string]uint64{
		"with all features":         ^uint64(0),
		"without any":               vhostusertest.FeatureVersion1,
		"without EVENT_IDX":         ^uint64(vhostusertest.FeatureEventIdx),
		"without protocol features": ^uint64(vhostusertest.FeatureProtocol),
	} {
		t.Run(name, func(t *testing.T) {
			s := serve(t, &echo{})
			s.Features &= features
			s.Boot(2, 8)
			q := s.Queue(1)
			for i := range 100 {
				msg := bytes.Repeat([]byte{byte(i)}, 10+i)
				head := q.Offer([][]byte{msg[:3], msg[3:]}, 256)
				q.Kick()
				b := q.Wait()
				if b.Head != head || int(b.Written) != len(msg) || !bytes.Equal(b.Room[:b.Written], msg) {
					t.Fatalf("round %d: got %+v", i, b)
				}
			}
			if err := s.hangUp(); err != nil {
				t.Fatalf("Serve = %v, want nil after the VMM closed", err)
			}
		})
	}
}

func TestIndirectTableSpanningRegions(t *testing.T) {
	s := serve(t, &echo{})
	s.Boot(2, 8)
	q := s.Queue(0)
	// The table lies in the high region, its buffers in both.
	const table, high = vhostusertest.HighBase + 0x100, vhostusertest.HighBase + 0x1000
	low := s.Alloc(64)
	copy(s.Bytes(low, 5), "hello")
	copy(s.Bytes(high, 6), " world")
	room := s.Bytes(high+0x100, 64)
	for i, d := range []vhostusertest.Desc{
		{Addr: low, Len: 5, Flags: vhostusertest.Next, Next: 2},
		{Addr: high + 0x100, Len: 64, Flags: vhostusertest.Write},
		{Addr: high, Len: 6, Flags: vhostusertest.Next, Next: 1},
	} {
		vhostusertest.PutDesc(s.Bytes(table+uint64(i)*16, 16), d)
	}
	q.OfferDescs([]vhostusertest.Desc{{Addr: table, Len: 48, Flags: vhostusertest.Indirect}}, room)
	q.Kick()
	if b := q.Wait(); string(room[:b.Written]) != "hello world" {
		t.Fatalf("got %q", room[:b.Written])
	}
}

func TestDriverThatFloodsIsStoppedByTheVMM(t *testing.T) {
	s := serve(t, &echo{})
	s.Boot(2, 16)
	q := s.Queue(0)
	for range 7 {
		q.Offer([][]byte{[]byte("again")}, 16)
	}
	// The index keeps moving while the VMM asks: it must get its answer.
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for idx := q.UsedIdx(); ; {
			select {
			case <-stop:
				return
			default:
			}
			if now := q.UsedIdx(); now != idx {
				idx = now
				q.SetAvailIdx(now + 7)
				q.Kick()
			}
		}
	})
	q.Kick()
	base := s.Stop(0)
	close(stop)
	wg.Wait()
	if used := q.UsedIdx(); used != base {
		t.Errorf("stopped at %d, but used ring is at %d", base, used)
	}
}

func TestQueueLifeCycle(t *testing.T) {
	dev := &echo{}
	s := serve(t, dev)
	s.Boot(2, 8)
	s.roundTrip(0, "one")
	if base := s.Stop(0); base != 1 {
		t.Errorf("stopped at %d, want 1", base)
	}
	if base := s.Stop(0); base != 1 {
		t.Errorf("asked again, stopped at %d, want 1", base)
	}
	s.Start(0)
	s.roundTrip(0, "two")

	// A disabled queue keeps its place as well.
	s.Set(vhostusertest.SetVringEnable, vhostusertest.State(0, 0))
	s.Queue(0).Offer([][]byte{[]byte("three")}, 16)
	s.Queue(0).Kick()
	s.Set(vhostusertest.SetVringEnable, vhostusertest.State(0, 1))
	s.Queue(0).Wait()

	// A new driver.
	s.Stop(0)
	s.Queue(0).Reset()
	s.Start(0)
	s.roundTrip(0, "four")

	s.Set(vhostusertest.ResetDevice, nil)
	if err := s.hangUp(); err != nil {
		t.Fatal(err)
	}
	want := []string{"fresh", "fresh", "stopped", "resumed", "stopped", "resumed", "stopped", "fresh", "stopped", "stopped"}
	if !slices.Equal(dev.events, want) {
		t.Errorf("device saw %v, want %v", dev.events, want)
	}
}

// TestCloudHypervisorsOrder sends what rust-vmm's front-end does, in its order.
func TestCloudHypervisorsOrder(t *testing.T) {
	s := serve(t, &echo{})
	const needsNoReply = 0
	send := func(req uint32, payload []byte, fds ...int) {
		t.Helper()
		if err := s.Send(req, needsNoReply, payload, fds...); err != nil {
			t.Fatal(err)
		}
	}
	send(vhostusertest.SetOwner, nil)
	features := binary.LittleEndian.Uint64(s.Get(vhostusertest.GetFeatures, nil))
	protocol := binary.LittleEndian.Uint64(s.Get(vhostusertest.GetProtocolFeatures, nil))
	send(vhostusertest.SetProtocolFeatures, vhostusertest.U64(protocol))
	s.Get(vhostusertest.GetQueueNum, nil)
	send(vhostusertest.SetFeatures, vhostusertest.U64(features))
	fd := int(s.File.Fd())
	send(vhostusertest.SetMemTable, vhostusertest.MemTable(), fd, fd)
	q := s.AddQueue(0, 8)
	s.Start(0) // leaves the descriptors open
	s.roundTrip(0, "started")
	for range 3 {
		send(vhostusertest.SetVringEnable, vhostusertest.State(0, 0))
		base := s.Stop(0)
		send(vhostusertest.ResetOwner, nil)
		send(vhostusertest.SetFeatures, vhostusertest.U64(features))
		send(vhostusertest.SetVringNum, vhostusertest.State(0, 8))
		send(vhostusertest.SetVringAddr, q.AddrPayload())
		send(vhostusertest.SetVringBase, vhostusertest.State(0, uint32(base)))
		kick, call := q.Renew()
		send(vhostusertest.SetVringCall, vhostusertest.U64(0), call)
		send(vhostusertest.SetVringKick, vhostusertest.U64(0), kick)
		send(vhostusertest.SetVringEnable, vhostusertest.State(0, 1))
		s.roundTrip(0, "restarted")
	}
	if err := s.hangUp(); err != nil {
		t.Error(err)
	}
}

func TestQueueTakenOverFromAnotherBackEnd(t *testing.T) {
	dev := &echo{}
	s := serve(t, dev)
	s.Negotiate()
	s.ShareMemory()
	q := s.AddQueue(0, 8)
	binary.LittleEndian.PutUint16(s.Bytes(q.UsedAddr+2, 2), 40000)
	q.SetAvailIdx(40000)
	s.Start(0)
	if err := s.hangUp(); err != nil {
		t.Fatal(err)
	}
	if want := []string{"taken over", "stopped"}; !slices.Equal(dev.events, want) {
		t.Errorf("device saw %v, want %v", dev.events, want)
	}
}

func TestConfigurationSpace(t *testing.T) {
	s := serve(t, &echo{})
	s.Negotiate()
	req := make([]byte, 12+6)
	req[0], req[4] = 4, 6 // six bytes from the fourth on
	got := s.Get(vhostusertest.GetConfig, req)
	if want := []byte{5, 6, 7, 8, 0, 0}; !bytes.Equal(got[12:], want) {
		t.Errorf("configuration %v, want %v", got[12:], want)
	}
	s.Set(vhostusertest.SetConfig, req) // read-only: ignored
	if n := binary.LittleEndian.Uint64(s.Get(vhostusertest.GetQueueNum, nil)); n != 2 {
		t.Errorf("%d queues, want 2", n)
	}
	if n := binary.LittleEndian.Uint64(s.Get(vhostusertest.GetMaxMemSlots, nil)); n != maxSlots {
		t.Errorf("%d memory slots, want %d", n, maxSlots)
	}
}

func TestMemoryRegionsComeAndGoWhileQueuesRun(t *testing.T) {
	s := serve(t, &echo{})
	s.Boot(2, 8)
	fd := int(s.File.Fd())
	region := append(make([]byte, 8), vhostusertest.RegionPayload(0x2_0000_0000, 1<<20, 0x7e00_0000_0000, 0)...)
	for i := range 50 {
		s.Set(vhostusertest.AddMemReg, region, fd)
		s.roundTrip(i%2, "with")
		s.Set(vhostusertest.RemMemReg, region)
		s.roundTrip(i%2, "without")
		s.ShareMemory()
	}
	if s.Try(vhostusertest.RemMemReg, region) {
		t.Error("device removed a region twice")
	}
	if err := s.end(); !errors.Is(err, ErrFrontend) {
		t.Errorf("Serve = %v", err)
	}
}

func TestEndOfTheContext(t *testing.T) {
	s := serve(t, &echo{})
	s.Boot(2, 8)
	cause := errors.New("enough")
	s.stop(cause)
	if err := s.end(); !errors.Is(err, cause) {
		t.Errorf("Serve = %v, want the context's cause", err)
	}
}

func TestGuestMemoryThatVanishes(t *testing.T) {
	s := serve(t, &echo{})
	s.Boot(2, 8)
	q := s.Queue(0)
	q.OfferDescs([]vhostusertest.Desc{{Addr: vhostusertest.HighBase, Len: 64}}, nil)
	if err := s.File.Truncate(vhostusertest.LowSize); err != nil {
		t.Fatal(err)
	}
	q.Kick()
	if err := s.end(); !errors.Is(err, ErrFrontend) || !strings.Contains(err.Error(), "vanished") {
		t.Errorf("Serve = %v", err)
	}
}

// TestWishesThatAreSeenLate is about a driver whose writes another processor sees
// only after it has looked at ours, which no barrier of ours can help.
func TestWishesThatAreSeenLate(t *testing.T) {
	dev := &echo{}
	s := serve(t, dev)
	s.Boot(2, 8)
	s.roundTrip(1, "hello") // the first answer always interrupts
	q, call := s.Queue(1), s.Queue(1).Events()[1]
	wish := func(idx uint16) {
		binary.LittleEndian.PutUint16(s.Bytes(q.AvailAddr+4+2*uint64(q.Size), 2), idx)
	}
	interrupted := func() bool {
		t.Helper()
		var n [8]byte
		if err := call.SetReadDeadline(time.Now().Add(pace.Of(vhostusertest.Timeout))); err != nil {
			t.Fatal(err)
		}
		_, err := call.Read(n[:])
		return err == nil
	}

	wish(1 << 14) // no interrupt soon
	q.Offer([][]byte{[]byte("again")}, 64)
	q.Kick()
	for q.UsedIdx() != 2 {
		runtime.Gosched()
	}
	wish(1) // one at the second answer, which is there already
	dev.queues[1].lookAgain()
	if !interrupted() {
		t.Error("no interrupt for an answer that the driver has not seen")
	}

	q.Offer([][]byte{[]byte("once more")}, 64) // without a kick
	wish(2)
	dev.queues[1].lookAgain()
	if !interrupted() {
		t.Error("a buffer without a kick is not seen")
	}
	if err := s.hangUp(); err != nil {
		t.Error(err)
	}
}
