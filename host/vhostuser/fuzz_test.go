package vhostuser

import (
	"encoding/binary"
	"errors"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"kata/host/vhostuser/vhostusertest"
)

// FuzzMessages feeds raw bytes to a session that runs queues. Whatever they
// are, it must end without a panic.
func FuzzMessages(f *testing.F) {
	message := func(req uint32, payload []byte) []byte {
		b := binary.LittleEndian.AppendUint32(nil, req)
		b = binary.LittleEndian.AppendUint32(b, 1|flagNeedReply)
		b = binary.LittleEndian.AppendUint32(b, uint32(len(payload)))
		return append(b, payload...)
	}
	f.Add(message(vhostusertest.GetVringBase, vhostusertest.State(0, 0)))
	f.Add(message(vhostusertest.SetMemTable, vhostusertest.MemTable()))
	f.Add(append(message(vhostusertest.SetVringBase, vhostusertest.State(1, 7)), message(vhostusertest.SetVringEnable, vhostusertest.State(1, 1))...))
	f.Add(message(vhostusertest.GetConfig, make([]byte, 20)))
	f.Add(message(vhostusertest.ResetDevice, nil))
	f.Add(message(vhostusertest.RemMemReg, make([]byte, 40)))
	f.Fuzz(func(t *testing.T, data []byte) {
		s := serve(t, &echo{})
		s.Boot(2, 8)
		// Replies may fill the socket if nobody reads them: bound the input.
		if _, err := s.Conn.Write(data[:min(len(data), 4096)]); err == nil {
			_ = s.Conn.CloseWrite()
		}
		_ = s.end()
	})
}

// FuzzChain walks a ring in arbitrary memory: whatever the guest writes, a
// chain lies inside memory and is no longer than its queue.
func FuzzChain(f *testing.F) {
	const (
		num   = 8
		size  = 4096
		guest = 0x10000
		user  = 0x7f00_0000_0000
	)
	fd, err := unix.MemfdCreate("guest", unix.MFD_CLOEXEC)
	if err != nil {
		f.Fatal(err)
	}
	file := os.NewFile(uintptr(fd), "guest")
	f.Cleanup(func() { file.Close() })
	if err := file.Truncate(size); err != nil {
		f.Fatal(err)
	}
	m, err := mapRegion(Region{Guest: guest, Size: size, User: user}, fd)
	if err != nil {
		f.Fatal(err)
	}
	mem := newMapped([]*mapping{m})
	f.Cleanup(mem.close)

	chain := func(ds ...vhostusertest.Desc) []byte {
		b := make([]byte, size)
		for i, d := range ds {
			vhostusertest.PutDesc(b[i*16:], d)
		}
		return b
	}
	f.Add(uint16(0), true, chain(vhostusertest.Desc{Addr: guest, Len: 100}))
	f.Add(uint16(0), true, chain(vhostusertest.Desc{Addr: guest, Len: 16, Flags: 1, Next: 1}, vhostusertest.Desc{Addr: guest + 64, Len: 8, Flags: 2}))
	f.Add(uint16(1), true, chain(vhostusertest.Desc{Addr: guest, Len: 16}, vhostusertest.Desc{Addr: guest, Len: 32, Flags: 4}))
	f.Fuzz(func(t *testing.T, head uint16, indirect bool, data []byte) {
		clear(m.mem)
		copy(m.mem, data)
		table, err := mem.Window(user, num*descSize, 16)
		if err != nil {
			t.Fatal(err)
		}
		w := walker{mem: mem, table: table, num: num, indirect: indirect}
		var c Chain
		if err := w.walk(head, &c); err != nil {
			if !errors.Is(err, ErrDriver) {
				t.Fatalf("walk = %v", err)
			}
			return
		}
		if len(c.in.segs)+len(c.out.segs) > num {
			t.Fatalf("chain of %d+%d segments", len(c.in.segs), len(c.out.segs))
		}
		readable, writable := c.Readable(), c.Writable()
		if readable > num*size || writable > num*size {
			t.Fatalf("chain of %d+%d bytes in %d bytes of memory", readable, writable, size)
		}
		p := make([]byte, readable+1)
		if n, err := c.Read(p); uint64(n) != readable || err != nil {
			t.Fatalf("read %d of %d bytes, %v", n, readable, err)
		}
		p = make([]byte, writable+1)
		if n, err := c.Write(p); uint64(n) != writable || err != nil {
			t.Fatalf("wrote %d of %d bytes, %v", n, writable, err)
		}
	})
}
