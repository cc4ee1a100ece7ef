package vhostuser

import (
	"encoding/binary"
	"errors"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"kata/host/vhostuser/vhostusertest"
)

// TestHostileDrivers sets up a ring that breaks a rule: the session must end
// with an error that says which.
func TestHostileDrivers(t *testing.T) {
	const (
		size  = 8
		next  = vhostusertest.Next
		write = vhostusertest.Write
		indir = vhostusertest.Indirect
		end   = vhostusertest.HighBase + vhostusertest.HighSize
	)
	type desc = vhostusertest.Desc
	// indirect offers an indirect table of ds, of size bytes.
	indirect := func(s *served, size uint32, ds ...desc) {
		addr := s.Alloc(len(ds)*16 + 16)
		for i, d := range ds {
			vhostusertest.PutDesc(s.Bytes(addr+uint64(i)*16, 16), d)
		}
		s.Queue(0).OfferDescs([]desc{{Addr: addr, Len: size, Flags: indir}}, nil)
	}
	// direct writes ds to the table as they are and offers the first.
	direct := func(s *served, ds ...desc) {
		for i, d := range ds {
			s.Queue(0).SetDesc(i, d)
		}
		s.Queue(0).Push(0)
	}
	tests := map[string]struct {
		do   func(s *served)
		want string
	}{
		"head outside the table": {func(s *served) { s.Queue(0).Push(size) }, "descriptor 8 in a queue of 8"},
		"successor outside the table": {func(s *served) {
			direct(s, desc{Addr: 0x1000, Len: 1, Flags: next, Next: 500})
		}, "descriptor 500 in a queue of 8"},
		"loop of one": {func(s *served) {
			direct(s, desc{Addr: 0x1000, Len: 1, Flags: next, Next: 0})
		}, "chain longer than its queue"},
		"loop of two": {func(s *served) {
			direct(s, desc{Addr: 0x1000, Len: 1, Flags: next, Next: 1}, desc{Addr: 0x1000, Len: 1, Flags: next, Next: 0})
		}, "chain longer than its queue"},
		"buffer outside memory": {func(s *served) {
			direct(s, desc{Addr: 0x4000_0000, Len: 1})
		}, "is not memory"},
		"buffer across the end of memory": {func(s *served) {
			direct(s, desc{Addr: end - 4, Len: 8})
		}, "is not memory"},
		"buffer across a hole": {func(s *served) {
			direct(s, desc{Addr: vhostusertest.LowSize - 4, Len: 8})
		}, "is not memory"},
		"buffer that wraps around": {func(s *served) {
			direct(s, desc{Addr: ^uint64(0) - 3, Len: 8})
		}, "is not memory"},
		"longest possible buffer": {func(s *served) {
			direct(s, desc{Addr: 0x1000, Len: ^uint32(0)})
		}, "is not memory"},
		"readable after writable": {func(s *served) {
			direct(s, desc{Addr: 0x1000, Len: 1, Flags: write | next, Next: 1}, desc{Addr: 0x1000, Len: 1})
		}, "readable descriptor after a writable one"},
		"available index that runs away": {func(s *served) { s.Queue(0).SetAvailIdx(size + 1) }, "is 9 ahead"},
		"available index that goes back": {func(s *served) { s.Queue(0).SetAvailIdx(0xffff) }, "is 65535 ahead"},
		"indirect table that is empty":   {func(s *served) { indirect(s, 0) }, "indirect table of 0 bytes"},
		"indirect table of odd size":     {func(s *served) { indirect(s, 17, desc{}, desc{}) }, "indirect table of 17 bytes"},
		"indirect table of absurd size":  {func(s *served) { indirect(s, 0xffff_fff0) }, "in a queue of 8"},
		"indirect table longer than the queue": {func(s *served) {
			indirect(s, 9*16, make([]desc, 9)...)
		}, "indirect table of 9 descriptors in a queue of 8"},
		"indirect table outside memory": {func(s *served) {
			direct(s, desc{Addr: end, Len: 16, Flags: indir})
		}, "indirect table at"},
		"indirect table in an indirect table": {func(s *served) {
			indirect(s, 16, desc{Addr: 0x1000, Len: 16, Flags: indir})
		}, "inside an indirect table"},
		"indirect table with a successor": {func(s *served) {
			direct(s, desc{Addr: 0x1000, Len: 16, Flags: indir | next, Next: 1}, desc{})
		}, "with a successor"},
		"loop in an indirect table": {func(s *served) {
			indirect(s, 16, desc{Addr: 0x1000, Len: 1, Flags: next, Next: 0})
		}, "loop in an indirect table"},
		"successor outside an indirect table": {func(s *served) {
			indirect(s, 16, desc{Addr: 0x1000, Len: 1, Flags: next, Next: 1})
		}, "indirect descriptor 1 in a table of 1"},
		"chain and indirect table together longer than the queue": {func(s *served) {
			addr := s.Alloc(8 * 16)
			direct(s, desc{Addr: 0x1000, Len: 1, Flags: next, Next: 1}, desc{Addr: addr, Len: 8 * 16, Flags: indir})
		}, "indirect table of 8 descriptors"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			s := serve(t, &echo{})
			s.Boot(2, size)
			test.do(s)
			s.Queue(0).Kick()
			err := s.end()
			if !errors.Is(err, ErrDriver) || !strings.Contains(err.Error(), test.want) {
				t.Errorf("Serve = %v, want %q", err, test.want)
			}
		})
	}
	t.Run("indirect table without the feature", func(t *testing.T) {
		s := serve(t, &echo{})
		s.Features &^= vhostusertest.FeatureIndirect
		s.Boot(2, size)
		indirect(s, 16, desc{Addr: 0x1000, Len: 1})
		s.Queue(0).Kick()
		if err := s.end(); !errors.Is(err, ErrDriver) {
			t.Errorf("Serve = %v", err)
		}
	})
}

// TestHostileRings places rings where they must not be.
func TestHostileRings(t *testing.T) {
	for name, move := range map[string]func(q *vhostusertest.Queue){
		"descriptors outside memory":     func(q *vhostusertest.Queue) { q.DescAddr = 0x4000_0000 },
		"descriptors across its end":     func(q *vhostusertest.Queue) { q.DescAddr = vhostusertest.LowSize - 16 },
		"descriptors misaligned":         func(q *vhostusertest.Queue) { q.DescAddr += 8 },
		"available ring outside memory":  func(q *vhostusertest.Queue) { q.AvailAddr = 0x4000_0000 },
		"available ring misaligned":      func(q *vhostusertest.Queue) { q.AvailAddr++ },
		"available ring across its end":  func(q *vhostusertest.Queue) { q.AvailAddr = vhostusertest.LowSize - 8 },
		"used ring outside memory":       func(q *vhostusertest.Queue) { q.UsedAddr = 0x4000_0000 },
		"used ring misaligned":           func(q *vhostusertest.Queue) { q.UsedAddr += 2 },
		"used ring event past the end":   func(q *vhostusertest.Queue) { q.UsedAddr = vhostusertest.LowSize - 4 - 8*8 },
		"used ring that wraps around":    func(q *vhostusertest.Queue) { q.UsedAddr = ^uint64(0) - vhostusertest.User(3) },
		"used ring at the last position": nil,
	} {
		t.Run(name, func(t *testing.T) {
			s := serve(t, &echo{})
			s.Negotiate()
			s.ShareMemory()
			q := s.AddQueue(0, 8)
			if move == nil {
				q.UsedAddr = vhostusertest.LowSize - 4 - 8*8 - 4
				s.Start(0)
				s.roundTrip(0, "fits")
				return
			}
			move(q)
			f := s.EventFD()
			defer f.Close()
			s.Set(vhostusertest.SetVringNum, vhostusertest.State(0, 8))
			s.Set(vhostusertest.SetVringAddr, q.AddrPayload())
			s.Set(vhostusertest.SetVringKick, vhostusertest.U64(0), int(f.Fd()))
			if s.Try(vhostusertest.SetVringEnable, vhostusertest.State(0, 1)) {
				t.Error("device started the queue")
			}
			if err := s.end(); !errors.Is(err, ErrDriver) {
				t.Errorf("Serve = %v", err)
			}
		})
	}
}

// TestHostileFrontEnds sends messages that break the protocol.
func TestHostileFrontEnds(t *testing.T) {
	pipeR, pipeW, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer pipeR.Close()
	defer pipeW.Close()
	reg := func(guest, size, user, off uint64) []byte {
		return append(make([]byte, 8), vhostusertest.RegionPayload(guest, size, user, off)...)
	}
	table := func(n byte, regions ...[]byte) []byte {
		b := []byte{n, 0, 0, 0, 0, 0, 0, 0}
		for _, r := range regions {
			b = append(b, r[8:]...)
		}
		return b
	}
	mem := func(s *served) int { return int(s.File.Fd()) }
	tests := map[string]func(s *served) bool{
		"unknown request":         func(s *served) bool { return s.Try(99, nil) },
		"request 0":               func(s *served) bool { return s.Try(0, nil) },
		"payload of 1 MiB":        func(s *served) bool { return s.Try(vhostusertest.SetOwner, make([]byte, 1<<20)) },
		"payload where none is":   func(s *served) bool { return s.Try(vhostusertest.SetOwner, make([]byte, 8)) },
		"short features":          func(s *served) bool { return s.Try(vhostusertest.SetFeatures, make([]byte, 4)) },
		"features not offered":    func(s *served) bool { return s.Try(vhostusertest.SetFeatures, vhostusertest.U64(1<<40)) },
		"protocol not offered":    func(s *served) bool { return s.Try(vhostusertest.SetProtocolFeatures, vhostusertest.U64(1<<16)) },
		"queue out of range":      func(s *served) bool { return s.Try(vhostusertest.SetVringNum, vhostusertest.State(2, 8)) },
		"last possible queue":     func(s *served) bool { return s.Try(vhostusertest.GetVringBase, vhostusertest.State(^uint32(0), 8)) },
		"queue of size 0":         func(s *served) bool { return s.Try(vhostusertest.SetVringNum, vhostusertest.State(0, 0)) },
		"queue of size 7":         func(s *served) bool { return s.Try(vhostusertest.SetVringNum, vhostusertest.State(0, 7)) },
		"queue of size 65536":     func(s *served) bool { return s.Try(vhostusertest.SetVringNum, vhostusertest.State(0, 65536)) },
		"base beyond 16 bits":     func(s *served) bool { return s.Try(vhostusertest.SetVringBase, vhostusertest.State(0, 65536)) },
		"enabled by 2":            func(s *served) bool { return s.Try(vhostusertest.SetVringEnable, vhostusertest.State(0, 2)) },
		"kick without descriptor": func(s *served) bool { return s.Try(vhostusertest.SetVringKick, vhostusertest.U64(0)) },
		"kick to be polled":       func(s *served) bool { return s.Try(vhostusertest.SetVringKick, vhostusertest.U64(0x100)) },
		"kick that is a pipe": func(s *served) bool {
			return s.Try(vhostusertest.SetVringKick, vhostusertest.U64(0), int(pipeR.Fd()))
		},
		"call that is a pipe": func(s *served) bool {
			return s.Try(vhostusertest.SetVringCall, vhostusertest.U64(0), int(pipeW.Fd()))
		},
		"call with two descriptors": func(s *served) bool {
			return s.Try(vhostusertest.SetVringCall, vhostusertest.U64(0), mem(s), mem(s))
		},
		"nine descriptors": func(s *served) bool {
			f := mem(s)
			return s.Try(vhostusertest.SetVringErr, vhostusertest.U64(0), f, f, f, f, f, f, f, f, f)
		},
		"two hundred descriptors": func(s *served) bool {
			fds := make([]int, 200)
			for i := range fds {
				fds[i] = mem(s)
			}
			return s.Try(vhostusertest.SetVringErr, vhostusertest.U64(0), fds...)
		},
		"running queue resized": func(s *served) bool {
			s.Boot(1, 8)
			return s.Try(vhostusertest.SetVringNum, vhostusertest.State(0, 16))
		},
		"running queue moved": func(s *served) bool {
			s.Boot(1, 8)
			s.Queue(0).UsedAddr += 4096
			return s.Try(vhostusertest.SetVringAddr, s.Queue(0).AddrPayload())
		},
		"memory taken from under a running queue": func(s *served) bool {
			s.Boot(1, 8)
			return s.Try(vhostusertest.SetMemTable, table(0))
		},
		"memory table of 200 regions": func(s *served) bool { return s.Try(vhostusertest.SetMemTable, table(200)) },
		"memory table cut short": func(s *served) bool {
			return s.Try(vhostusertest.SetMemTable, table(2, reg(0, 4096, 0, 0)), mem(s), mem(s))
		},
		"memory table of 3 bytes":     func(s *served) bool { return s.Try(vhostusertest.SetMemTable, []byte{0, 0, 0}) },
		"memory without descriptor":   func(s *served) bool { return s.Try(vhostusertest.SetMemTable, table(1, reg(0, 4096, 0, 0))) },
		"memory with two descriptors": func(s *served) bool { return s.Try(vhostusertest.AddMemReg, reg(0, 4096, 0, 0), mem(s), mem(s)) },
		"memory of size 0":            func(s *served) bool { return s.Try(vhostusertest.AddMemReg, reg(0, 0, 0, 0), mem(s)) },
		"memory that wraps in guest":  func(s *served) bool { return s.Try(vhostusertest.AddMemReg, reg(^uint64(0)-4095, 8192, 0, 0), mem(s)) },
		"memory that wraps in user":   func(s *served) bool { return s.Try(vhostusertest.AddMemReg, reg(0, 8192, ^uint64(0)-4095, 0), mem(s)) },
		"memory that wraps in file":   func(s *served) bool { return s.Try(vhostusertest.AddMemReg, reg(0, 8192, 0, ^uint64(0)-4095), mem(s)) },
		"memory larger than its file": func(s *served) bool { return s.Try(vhostusertest.AddMemReg, reg(0, 1<<40, 0, 0), mem(s)) },
		"memory past its file's end":  func(s *served) bool { return s.Try(vhostusertest.AddMemReg, reg(0, 4096, 0, 1<<30), mem(s)) },
		"memory that is a pipe":       func(s *served) bool { return s.Try(vhostusertest.AddMemReg, reg(0, 4096, 0, 0), int(pipeR.Fd())) },
		"memory that overlaps": func(s *served) bool {
			s.ShareMemory()
			return s.Try(vhostusertest.AddMemReg, reg(0x1000, 4096, 1, 0), mem(s))
		},
		"memory that overlaps in user": func(s *served) bool {
			s.ShareMemory()
			return s.Try(vhostusertest.AddMemReg, reg(1<<40, 4096, vhostusertest.User(0x1000), 0), mem(s))
		},
		"configuration of absurd size": func(s *served) bool {
			b := make([]byte, 12)
			b[4], b[7] = 1, 0x80
			return s.Try(vhostusertest.SetConfig, b)
		},
		"configuration beyond its end": func(s *served) bool {
			b := make([]byte, 20)
			b[0], b[4] = 255, 8
			return s.Try(vhostusertest.SetConfig, b)
		},
		"configuration cut short": func(s *served) bool { return s.Try(vhostusertest.SetConfig, make([]byte, 11)) },
		"reply out of the blue":   func(s *served) bool { return s.Send(vhostusertest.SetOwner, 4, nil) != nil },
		"version 2":               func(s *served) bool { return s.Send(vhostusertest.SetOwner, 3, nil) != nil },
		"end inside a message":    func(s *served) bool { _, err := s.Conn.Write(make([]byte, 5)); s.Conn.Close(); return err != nil },
	}
	for name, do := range tests {
		t.Run(name, func(t *testing.T) {
			s := serve(t, &echo{})
			s.Negotiate()
			if do(s) {
				t.Error("device obeyed")
			}
			err := s.end()
			if !errors.Is(err, ErrFrontend) && !errors.Is(err, ErrDriver) {
				t.Errorf("Serve = %v", err)
			}
		})
	}
}

// TestVMMThatBlocksItsEvents makes the eventfds blocking and fills them: the
// session must end all the same.
func TestVMMThatBlocksItsEvents(t *testing.T) {
	s := serve(t, &echo{})
	s.Boot(1, 8)
	full := binary.LittleEndian.AppendUint64(nil, 1<<64-2)
	for _, f := range s.Queue(0).Events() {
		fd := int(f.Fd())
		if err := unix.SetNonblock(fd, false); err != nil {
			t.Fatal(err)
		}
		if _, err := unix.Write(fd, full); err != nil {
			t.Fatal(err)
		}
	}
	for range 3 {
		s.Queue(0).Offer([][]byte{[]byte("x")}, 8)
	}
	if err := s.hangUp(); err != nil {
		t.Errorf("Serve = %v", err)
	}
}
