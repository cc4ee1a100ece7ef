package ttrpc_test

import (
	"context"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	oracle "github.com/containerd/ttrpc"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"kata/api/ttrpc"
)

// BenchmarkCall is one call over a unix socket, both ends counted: ours, ours
// with a deadline, eight callers on one connection, and containerd's.
func BenchmarkCall(b *testing.B) {
	l, err := net.Listen("unix", filepath.Join(b.TempDir(), "s"))
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	dial := func() (near, far net.Conn) {
		near, err := net.Dial("unix", l.Addr().String())
		if err != nil {
			b.Fatal(err)
		}
		if far, err = l.Accept(); err != nil {
			b.Fatal(err)
		}
		return near, far
	}
	near, far := dial()
	s := standard(ttrpc.NewServer(ttrpc.ServerOptions{}))
	served := make(chan error)
	go func() { served <- s.ServeConn(context.Background(), far) }()
	c := ttrpc.NewClient(near)
	defer func() {
		_ = c.Close()
		<-served
	}()
	one := func(b *testing.B, ctx context.Context, arg string) {
		if _, err := call(ctx, c, "Echo", arg); err != nil {
			b.Fatal(err)
		}
	}
	b.Run("ours", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			one(b, b.Context(), "hello")
		}
	})
	b.Run("ours, deadline", func(b *testing.B) {
		b.ReportAllocs()
		ctx, cancel := context.WithTimeout(b.Context(), time.Hour)
		defer cancel()
		for b.Loop() {
			one(b, ctx, "hello")
		}
	})
	b.Run("ours, 64 KiB", func(b *testing.B) {
		b.ReportAllocs()
		arg := strings.Repeat("x", 64<<10)
		b.SetBytes(int64(2 * len(arg)))
		for b.Loop() {
			one(b, b.Context(), arg)
		}
	})
	b.Run("ours, 8 callers", func(b *testing.B) {
		b.ReportAllocs()
		b.SetParallelism(4)
		b.RunParallel(func(p *testing.PB) {
			for p.Next() {
				one(b, b.Context(), "hello")
			}
		})
	})
	b.Run("containerd", func(b *testing.B) { benchmarkOracle(b, dial) })
}

func benchmarkOracle(b *testing.B, dial func() (near, far net.Conn)) {
	b.ReportAllocs()
	s, err := oracle.NewServer()
	if err != nil {
		b.Fatal(err)
	}
	s.RegisterService(testService, &oracle.ServiceDesc{Methods: map[string]oracle.Method{
		"Echo": func(_ context.Context, unmarshal func(any) error) (any, error) {
			req := new(wrapperspb.StringValue)
			return req, unmarshal(req)
		},
	}})
	near, far := dial()
	l := newListener()
	go func() { _ = s.Serve(context.Background(), netListener{l}) }()
	l.conns <- far
	defer s.Close()
	c := oracle.NewClient(near)
	defer c.Close()
	for b.Loop() {
		if err := c.Call(b.Context(), testService, "Echo", wrapperspb.String("hello"), new(wrapperspb.StringValue)); err != nil {
			b.Fatal(err)
		}
	}
}
