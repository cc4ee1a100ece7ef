package qmp

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const greeting = `{"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}, "package": ""}, "capabilities": ["oob"]}}`

func newClient(t *testing.T, conn *net.UnixConn) *Client {
	t.Helper()
	client, err := New(t.Context(), conn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	return client
}

// conversations are held with real QEMU (qemu_vm_test.go, which records them)
// and with the recordings of it.
var conversations = map[string]func(*testing.T, *net.UnixConn){
	"status-and-quit": func(t *testing.T, conn *net.UnixConn) {
		client := newClient(t, conn)
		if client.Version().Major < 4 {
			t.Errorf("version %s", client.Version())
		}
		var status struct {
			Status  string
			Running bool
		}
		if err := client.Execute(t.Context(), "query-status", nil, &status); err != nil || status.Status != "prelaunch" || status.Running {
			t.Errorf("query-status: %+v, %v", status, err)
		}
		events := client.Subscribe(4)
		if err := client.Execute(t.Context(), "quit", nil, nil); err != nil {
			t.Errorf("quit: %v", err)
		}
		var last Event
		for event := range events.Events() {
			last = event
		}
		if last.Name != "SHUTDOWN" || !strings.Contains(string(last.Data), "host-qmp-quit") || last.Time.IsZero() {
			t.Errorf("last event: %+v", last)
		}
		<-client.Done()
		if err := client.Execute(t.Context(), "query-status", nil, nil); !errors.Is(err, ErrClosed) {
			t.Errorf("command after the end: %v", err)
		}
	},
	"errors": func(t *testing.T, conn *net.UnixConn) {
		client := newClient(t, conn)
		var refusal *Error
		err := client.Execute(t.Context(), "make-coffee", nil, nil)
		if !errors.As(err, &refusal) || refusal.Class != "CommandNotFound" || !strings.Contains(err.Error(), "make-coffee") {
			t.Errorf("unknown command: %v", err)
		}
		err = client.Execute(t.Context(), "device_del", map[string]any{"id": "nobody"}, nil)
		if !errors.As(err, &refusal) || refusal.Class != "DeviceNotFound" || refusal.Command != "device_del" {
			t.Errorf("unknown device: %v", err)
		}
		err = client.Execute(t.Context(), "object-add", map[string]any{"qom-type": "no-such-type", "id": "x"}, nil)
		if !errors.As(err, &refusal) || refusal.Class != "GenericError" || refusal.Desc == "" {
			t.Errorf("bad argument: %v", err)
		}
		if err := client.Execute(t.Context(), "query-name", nil, nil); err != nil {
			t.Errorf("command after errors: %v", err)
		}
	},
}

func TestRecordedQEMU(t *testing.T) {
	for name, conversation := range conversations {
		t.Run(name, func(t *testing.T) {
			lines := readTranscript(t, "testdata/"+name+".txt")
			conn, qemu := socketPair(t)
			played := make(chan error, 1)
			go func() { played <- lines.play(qemu) }()
			conversation(t, conn)
			if err := <-played; err != nil {
				t.Error(err)
			}
		})
	}
}

// fake is a QEMU whose replies a test writes.
type fake struct {
	t    *testing.T
	conn *net.UnixConn
	in   *bufio.Reader
}

// startFake returns a negotiated client and the other side.
func startFake(t *testing.T) (*Client, *fake) {
	t.Helper()
	conn, other := socketPair(t)
	f := &fake{t, other, bufio.NewReader(other)}
	go func() {
		f.say(greeting)
		f.say(fmt.Sprintf(`{"return": {}, "id": %s}`, f.command().id))
	}()
	return newClient(t, conn), f
}

func (f *fake) say(line string) { _, _ = io.WriteString(f.conn, line+"\r\n") }

type heard struct {
	name, id string
	args     json.RawMessage
}

func (f *fake) command() heard {
	line, err := f.in.ReadBytes('\n')
	var r struct {
		Execute   string
		Arguments json.RawMessage
		ID        json.RawMessage
	}
	if err == nil {
		err = json.Unmarshal(line, &r)
	}
	if err != nil {
		f.t.Errorf("fake QEMU: %v", err)
	}
	return heard{r.Execute, string(r.ID), r.Arguments}
}

func TestRepliesAreMatchedByID(t *testing.T) {
	client, qemu := startFake(t)
	const n = 20
	go func() { // answers in the opposite order
		var all []heard
		for range n {
			all = append(all, qemu.command())
		}
		for i := len(all) - 1; i >= 0; i-- {
			qemu.say(`{"timestamp": {"seconds": 1, "microseconds": 2}, "event": "RESUME"}`)
			qemu.say(fmt.Sprintf(`{"return": %s, "id": %s}`, all[i].args, all[i].id))
		}
	}()
	var group sync.WaitGroup
	for i := range n {
		group.Go(func() {
			var got struct{ N int }
			if err := client.Execute(t.Context(), "echo", map[string]int{"n": i}, &got); err != nil || got.N != i {
				t.Errorf("echo %d: %+v, %v", i, got, err)
			}
		})
	}
	group.Wait()
}

func TestAbandonedCommandDoesNotDisturbTheNext(t *testing.T) {
	client, qemu := startFake(t)
	ctx, cancel := context.WithCancelCause(t.Context())
	cause := errors.New("no patience")
	first := make(chan heard, 1)
	go func() {
		first <- qemu.command()
		cancel(cause)
	}()
	if err := client.Execute(ctx, "slow", nil, nil); !errors.Is(err, cause) {
		t.Errorf("abandoned command: %v", err)
	}
	go func() {
		slow, fast := <-first, qemu.command()
		qemu.say(fmt.Sprintf(`{"return": {"n": 1}, "id": %s}`, slow.id))
		qemu.say(fmt.Sprintf(`{"return": {"n": 2}, "id": %s}`, fast.id))
	}()
	var got struct{ N int }
	if err := client.Execute(t.Context(), "fast", nil, &got); err != nil || got.N != 2 {
		t.Errorf("next command: %+v, %v", got, err)
	}
}

func TestCommandWithEndedContextIsNotSent(t *testing.T) {
	client, qemu := startFake(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := client.Execute(ctx, "never", nil, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("Execute = %v", err)
	}
	go func() {
		command := qemu.command()
		if command.name != "next" {
			t.Errorf("QEMU heard %q", command.name)
		}
		qemu.say(fmt.Sprintf(`{"return": {}, "id": %s}`, command.id))
	}()
	if err := client.Execute(t.Context(), "next", nil, nil); err != nil {
		t.Error(err)
	}
}

func TestHalfWrittenCommandEndsTheConnection(t *testing.T) {
	client, qemu := startFake(t)
	ctx, cancel := context.WithCancel(t.Context())
	go func() { // reads the beginning and no more
		_, _ = qemu.in.ReadByte()
		cancel()
	}()
	huge := map[string]string{"x": strings.Repeat("x", 8<<20)}
	if err := client.Execute(ctx, "huge", huge, nil); err == nil {
		t.Error("Execute succeeds")
	}
	<-client.Done()
	if err := client.Execute(t.Context(), "next", nil, nil); !errors.Is(err, ErrClosed) {
		t.Errorf("next command: %v", err)
	}
}

func TestEndOfConnectionEndsCommands(t *testing.T) {
	client, qemu := startFake(t)
	go func() {
		qemu.command()
		qemu.conn.Close()
	}()
	if err := client.Execute(t.Context(), "wait", nil, nil); !errors.Is(err, ErrClosed) {
		t.Errorf("Execute = %v", err)
	}
}

func TestGarbageEndsTheConnection(t *testing.T) {
	for name, line := range map[string]string{
		"no json":        "!!!",
		"wrong type":     `{"return": {}, "id": 1, "event": 5}`,
		"too long":       strings.Repeat("x", MaxMessage+1),
		"binary":         "\x00\xff\xfe",
		"two in a line":  `{"return": {}} {"return": {}}`,
		"a deep nesting": strings.Repeat(`{"a":`, 20000),
	} {
		t.Run(name, func(t *testing.T) {
			client, qemu := startFake(t)
			go func() {
				qemu.command()
				qemu.say(line)
			}()
			if err := client.Execute(t.Context(), "wait", nil, nil); !errors.Is(err, ErrClosed) {
				t.Errorf("Execute = %v", err)
			}
		})
	}
}

func TestStrangeRepliesAreIgnored(t *testing.T) {
	client, qemu := startFake(t)
	go func() {
		command := qemu.command()
		for _, line := range []string{
			"", "{}", `{"id": 5}`, `{"return": {}}`, `{"return": {}, "id": 999}`, `{"return": {}, "id": "name"}`,
			`{"return": {}, "id": -1}`, `{"error": {"class": "GenericError", "desc": "?"}}`, greeting,
		} {
			qemu.say(line)
		}
		reply := fmt.Sprintf(`{"return": {"n": 7}, "id": %s}`, command.id)
		qemu.say(reply)
		qemu.say(reply) // twice
		command = qemu.command()
		qemu.say(fmt.Sprintf(`{"return": {"n": 8}, "id": %s}`, command.id))
	}()
	for want := 7; want <= 8; want++ {
		var got struct{ N int }
		if err := client.Execute(t.Context(), "ask", nil, &got); err != nil || got.N != want {
			t.Errorf("ask: %+v, %v; want %d", got, err, want)
		}
	}
}

func TestGreeting(t *testing.T) {
	for name, say := range map[string]string{
		"something else": "{\"return\": {}}\n",
		"no json":        "SSH-2.0\n",
		"nothing":        "",
	} {
		t.Run(name, func(t *testing.T) {
			conn, other := socketPair(t)
			go func() {
				_, _ = io.WriteString(other, say)
				other.Close()
			}()
			if _, err := New(t.Context(), conn); err == nil || !strings.Contains(err.Error(), "greeting") {
				t.Errorf("New = %v", err)
			}
		})
	}
	t.Run("silence", func(t *testing.T) {
		conn, _ := socketPair(t)
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		if _, err := New(ctx, conn); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("New = %v", err)
		}
	})
	t.Run("refused capabilities", func(t *testing.T) {
		conn, other := socketPair(t)
		f := &fake{t, other, bufio.NewReader(other)}
		go func() {
			f.say(greeting)
			f.say(fmt.Sprintf(`{"error": {"class": "GenericError", "desc": "no"}, "id": %s}`, f.command().id))
		}()
		var refusal *Error
		if _, err := New(t.Context(), conn); !errors.As(err, &refusal) {
			t.Errorf("New = %v", err)
		}
	})
}

func TestEventsFanOutAndAreBounded(t *testing.T) {
	client, qemu := startFake(t)
	slow, fast, gone := client.Subscribe(2), client.Subscribe(10), client.Subscribe(10)
	gone.Close()
	gone.Close()
	for i := range 5 {
		qemu.say(fmt.Sprintf(`{"timestamp": {"seconds": %d, "microseconds": 0}, "event": "E%d", "data": {"i": %d}}`, i+1, i, i))
	}
	for i := range 5 {
		if event := <-fast.Events(); event.Name != fmt.Sprintf("E%d", i) || event.Time.Unix() != int64(i+1) {
			t.Errorf("event %d: %+v", i, event)
		}
	}
	if slow.Dropped() != 3 {
		t.Errorf("the slow subscriber lost %d, want 3", slow.Dropped())
	}
	client.Close()
	var names []string
	for event := range slow.Events() {
		names = append(names, event.Name)
	}
	if fmt.Sprint(names) != "[E0 E1]" {
		t.Errorf("the slow subscriber got %v", names)
	}
	if _, ok := <-gone.Events(); ok {
		t.Error("a closed subscription delivers")
	}
	if _, ok := <-client.Subscribe(1).Events(); ok {
		t.Error("a subscription after the end delivers")
	}
	slow.Close()
}

func TestDescriptorTravelsWithItsCommand(t *testing.T) {
	client, qemu := startFake(t)
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer read.Close()
	go func() {
		oob := make([]byte, unix.CmsgSpace(4))
		line := make([]byte, 4096)
		n, oobn, _, _, err := qemu.conn.ReadMsgUnix(line, oob)
		if err != nil {
			t.Error(err)
			return
		}
		var command struct{ ID uint64 }
		if err := json.Unmarshal(line[:n], &command); err != nil {
			t.Error(err)
		}
		messages, _ := unix.ParseSocketControlMessage(oob[:oobn])
		for _, m := range messages {
			fds, _ := unix.ParseUnixRights(&m)
			for _, fd := range fds {
				_, _ = unix.Write(fd, []byte("through"))
				_ = unix.Close(fd)
			}
		}
		qemu.say(fmt.Sprintf(`{"return": {}, "id": %d}`, command.ID))
	}()
	if err := client.ExecuteWithFile(t.Context(), "getfd", map[string]string{"fdname": "f"}, nil, write); err != nil {
		t.Fatal(err)
	}
	write.Close()
	if got, err := io.ReadAll(read); err != nil || string(got) != "through" {
		t.Errorf("read %q, %v", got, err)
	}
}

func FuzzDecoder(f *testing.F) {
	f.Add([]byte(greeting + "\r\n"))
	f.Add([]byte(`{"return": {}, "id": 1}` + "\r\n" + `{"event": "STOP", "timestamp": {"seconds": 1, "microseconds": 5}}` + "\n"))
	f.Add([]byte(`{"error": {"class": "GenericError", "desc": "no"}, "id": 18446744073709551615}` + "\n"))
	f.Add([]byte("\n\n{"))
	f.Fuzz(func(t *testing.T, input []byte) {
		d := newDecoder(strings.NewReader(string(input)))
		for {
			m, err := d.next()
			if err != nil {
				if m != nil {
					t.Error("a message beside an error")
				}
				return
			}
			_ = m.event()
			if m.Return != nil || m.Error != nil {
				_ = decodeReply("x", m, &struct{ A int }{})
			}
		}
	})
}
