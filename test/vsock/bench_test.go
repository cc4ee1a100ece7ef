//go:build vm

package vsock

import (
	"encoding/binary"
	"io"
	"os"
	"testing"
)

// BenchmarkPingPong is the latency of one byte there and back.
func BenchmarkPingPong(b *testing.B) {
	m := boot(b)
	c := m.dial(b, portEcho)
	defer c.Close()
	p := []byte{1}
	for b.Loop() {
		if _, err := c.Write(p); err != nil {
			b.Fatal(err)
		}
		if _, err := io.ReadFull(c, p); err != nil {
			b.Fatal(err)
		}
	}
}

// transfer is the size of one operation of the throughput benchmarks.
const transfer = 64 << 20

// BenchmarkGuestToHost is the throughput of a stream from the guest, read
// with a buffer of 64 KiB.
func BenchmarkGuestToHost(b *testing.B) {
	fromGuest(b, func(c io.Reader) (int64, error) {
		return io.CopyBuffer(writerOnly{io.Discard}, readerOnly{c}, make([]byte, 64<<10))
	})
}

// BenchmarkGuestToPipe is the same into a pipe by io.Copy, as standard output
// goes to containerd.
func BenchmarkGuestToPipe(b *testing.B) {
	r, w, err := os.Pipe()
	if err != nil {
		b.Fatal(err)
	}
	go func() {
		buf := make([]byte, 64<<10)
		for {
			if _, err := r.Read(buf); err != nil {
				return
			}
		}
	}()
	defer r.Close()
	defer w.Close()
	fromGuest(b, func(c io.Reader) (int64, error) { return io.Copy(w, c) })
}

type readerOnly struct{ io.Reader }
type writerOnly struct{ io.Writer }

func fromGuest(b *testing.B, read func(io.Reader) (int64, error)) {
	m := boot(b)
	b.SetBytes(transfer)
	for b.Loop() {
		c := m.dial(b, portSource)
		if _, err := c.Write(binary.LittleEndian.AppendUint64(nil, transfer)); err != nil {
			b.Fatal(err)
		}
		if n, err := read(c); n != transfer || err != nil {
			b.Fatalf("%d bytes, %v", n, err)
		}
		c.Close()
	}
}

// BenchmarkHostToGuest is the throughput of a stream to the guest.
func BenchmarkHostToGuest(b *testing.B) {
	m := boot(b)
	data := make([]byte, 256<<10)
	b.SetBytes(transfer)
	for b.Loop() {
		c := m.dial(b, portSink)
		for range transfer / len(data) {
			if _, err := c.Write(data); err != nil {
				b.Fatal(err)
			}
		}
		if err := c.CloseWrite(); err != nil {
			b.Fatal(err)
		}
		var n [8]byte
		if _, err := io.ReadFull(c, n[:]); err != nil || binary.LittleEndian.Uint64(n[:]) != transfer {
			b.Fatalf("guest got %d bytes, %v", binary.LittleEndian.Uint64(n[:]), err)
		}
		c.Close()
	}
}

// BenchmarkConnect is the time to connect to the guest, have a byte returned
// and close.
func BenchmarkConnect(b *testing.B) {
	m := boot(b)
	p := []byte{1}
	for b.Loop() {
		c := m.dial(b, portEcho)
		if _, err := c.Write(p); err != nil {
			b.Fatal(err)
		}
		if _, err := io.ReadFull(c, p); err != nil {
			b.Fatal(err)
		}
		c.Close()
	}
}
