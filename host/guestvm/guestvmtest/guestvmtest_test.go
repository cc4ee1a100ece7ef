package guestvmtest

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"kata/api"
	"kata/api/agentpb"
	"kata/api/ocipb"
	"kata/api/ttrpc"
	"kata/host/guestvm"
	"kata/host/unixsocket"
	"kata/host/vsock"
	"kata/test/leaktest"
)

func TestMain(m *testing.M) { os.Exit(leaktest.Run(m, "kata/host/guestvm/guestvmtest.")) }

const echoPort = 100

// echo serves connections until the listener ends.
func echo(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			_, _ = io.Copy(c, c)
		}()
	}
}

func TestTheFakeIsALink(t *testing.T) {
	link := NewLink(new(Faults))
	l, err := link.Guest().Listen(echoPort)
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	all.Go(func() { echo(l) })
	all.Go(func() { _ = link.Run(context.Background()) })
	TestLink(t, LinkUnderTest{
		Link: link, Echo: echoPort, Refused: 999,
		Connect: func(port uint32) {
			if c, err := link.Guest().Dial(context.Background(), port); err == nil {
				_ = c.Close()
			}
		},
		End: link.HangUp,
	})
	if err := link.Close(); err != nil {
		t.Error(err)
	}
	all.Wait()
}

// A link of a VMM that brings its own is one as well; here without the VMM.
func TestAHybridVsockIsALink(t *testing.T) {
	dir, err := os.MkdirTemp("", "hv")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "v")
	vmm, err := unixsocket.Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	open := map[net.Conn]bool{}
	next := 1 << 16
	var all sync.WaitGroup
	all.Go(func() {
		for {
			c, err := vmm.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			open[c] = true
			next++
			port := next
			mu.Unlock()
			all.Go(func() {
				defer c.Close()
				in := bufio.NewReader(c)
				line, err := in.ReadString('\n')
				if n, _ := strconv.Atoi(strings.TrimPrefix(strings.TrimSpace(line), "CONNECT ")); err != nil || n != echoPort {
					return
				}
				fmt.Fprintf(c, "OK %d\n", port)
				_, _ = io.Copy(c, in)
			})
		}
	})
	TestLink(t, LinkUnderTest{
		Link: &vsock.Hybrid{Path: path, GuestCID: api.GuestCID}, Echo: echoPort, Refused: 999,
		Connect: func(port uint32) {
			if c, err := net.Dial("unix", fmt.Sprintf("%s_%d", path, port)); err == nil {
				_ = c.Close()
			}
		},
		End: func() {
			_ = vmm.Close()
			mu.Lock()
			defer mu.Unlock()
			for c := range open {
				_ = c.Close()
			}
		},
	})
	all.Wait()
}

func TestTheFakesAreFiles(t *testing.T) {
	TestFiles(t, func(_ *testing.T, dir string) guestvm.Files { return NewFiles(dir, new(Faults)) })
}

func TestTheFakeIsAMachine(t *testing.T) {
	TestMachine(t, func(*testing.T) (guestvm.Machine, func()) {
		m := NewMachine(new(Faults), func(ctx context.Context) { <-ctx.Done() }, func() {})
		return m, func() { m.Die(errors.New("bad luck")) }
	})
}

func TestTheFakeIsAnAgent(t *testing.T) {
	agent, link := NewAgent(new(Faults)), NewLink(new(Faults))
	ctx, end := context.WithCancel(context.Background())
	ready, err := link.Listen(api.PortReady)
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	all.Go(func() { agent.Run(ctx, link.Guest()) })
	c, err := ready.Accept()
	if err != nil {
		t.Fatal(err)
	}
	_, _ = c.Close(), ready.Close()
	conn, err := link.Dial(t.Context(), api.PortAgent)
	if err != nil {
		t.Fatal(err)
	}
	client := ttrpc.NewClient(conn)
	spec := func(args ...string) func() *ocipb.Spec {
		return func() *ocipb.Spec { return &ocipb.Spec{Process: &ocipb.Process{Args: args}} }
	}
	TestAgent(t, AgentUnderTest{Client: agentpb.NewAgentServiceClient(client), Exits3: spec("exit", "3"), Sleeps: spec("sleep")})
	end()
	all.Wait()
	_ = client.Close()
	link.HangUp()
}
