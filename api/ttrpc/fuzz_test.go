package ttrpc_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"net"
	"testing"

	"kata/api/ttrpc"
)

// FuzzServer feeds a live server arbitrary bytes. Whatever they are, the server
// ends when they do, and every frame that it answers is well-formed.
func FuzzServer(f *testing.F) {
	request := func(stream uint32, kind byte, body []byte) []byte {
		return frame(uint32(len(body)), stream, kind, string(body))
	}
	f.Add(request(1, 1, echoRequest("hello")))
	f.Add(append(request(1, 1, echoRequest("a")), request(3, 1, echoRequest("b"))...))
	f.Add(request(2, 1, echoRequest("even")))
	f.Add(request(1, 3, nil))
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 0, 0, 0, 1, 1, 0, 'x'})
	f.Add(append(request(1, 1, append(echoRequest("x"), 0x20, 0x01)), request(3, 9, []byte("?"))...))
	f.Fuzz(func(t *testing.T, data []byte) {
		s := standard(ttrpc.NewServer(ttrpc.ServerOptions{MaxInFlight: 4}))
		near, far := net.Pipe()
		served := make(chan struct{})
		go func() {
			defer close(served)
			_ = s.ServeConn(context.Background(), far)
		}()
		answers := make(chan []byte)
		go func() {
			b, _ := io.ReadAll(near)
			answers <- b
		}()
		_, _ = near.Write(data)
		_ = near.Close()
		<-served
		for b := <-answers; len(b) >= 10; {
			n := binary.BigEndian.Uint32(b)
			if n > ttrpc.MaxMessage || b[8] != 2 {
				t.Fatalf("answer with header %x", b[:10])
			}
			if int(n) > len(b)-10 {
				break // cut off by the end of the connection
			}
			fields(t, b[10:10+n])
			b = b[10+n:]
		}
	})
}

// FuzzClient answers a call with arbitrary bytes. The call ends with the
// connection at the latest.
func FuzzClient(f *testing.F) {
	f.Add(frame(6, 1, 2, "\x12\x04\x0a\x02ok"))
	f.Add(frame(12, 1, 2, "\x0a\x0a\x08\x05\x12\x02no\x1a\x02xx"))
	f.Add(frame(1, 1, 3, "x"))
	f.Add(append(frame(3, 3, 2, "???"), frame(0, 1, 2, "")...))
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 0, 0, 0, 1, 2, 0, 'x'})
	f.Fuzz(func(t *testing.T, data []byte) {
		c := ttrpc.NewClient(&bytesConn{in: bytes.NewReader(data), wrote: make(chan struct{})})
		defer c.Close()
		_, _ = call(t.Context(), c, "Any", "")
		<-c.Done()
	})
}

// bytesConn gives its bytes once something was written.
type bytesConn struct {
	in    *bytes.Reader
	wrote chan struct{}
	one   bool
}

func (c *bytesConn) Read(b []byte) (int, error) {
	<-c.wrote
	return c.in.Read(b)
}

func (c *bytesConn) Write(b []byte) (int, error) {
	if !c.one {
		c.one = true
		close(c.wrote)
	}
	return len(b), nil
}

func (c *bytesConn) Close() error { return nil }
