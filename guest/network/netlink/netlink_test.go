package netlink

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"kata/lib/ownedfd"

	"kata/test/leaktest"
)

func TestMain(m *testing.M) { os.Exit(leaktest.Run(m, "kata/guest/network/netlink.")) }

// message encodes a message from the kernel.
func message(kind, flags uint16, seq uint32, body ...byte) []byte {
	b := binary.NativeEndian.AppendUint32(nil, uint32(16+len(body)))
	b = binary.NativeEndian.AppendUint16(b, kind)
	b = binary.NativeEndian.AppendUint16(b, flags)
	b = binary.NativeEndian.AppendUint32(b, seq)
	b = append(binary.NativeEndian.AppendUint32(b, 0), body...)
	for len(b)%4 != 0 {
		b = append(b, 0)
	}
	return b
}

func number(n int32) []byte { return binary.NativeEndian.AppendUint32(nil, uint32(n)) }

// attribute encodes an attribute.
func attribute(kind uint16, value string) []byte {
	r := &Request{}
	r.Bytes(kind, []byte(value))
	return r.body
}

// kernel answers to each request on the other end of conn with the datagrams
// that answer returns.
func kernel(t *testing.T, answer func(request Message) [][]byte) *Conn {
	t.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer unix.Close(pair[1])
		buf := make([]byte, 4096)
		for {
			n, err := unix.Read(pair[1], buf)
			if err == unix.EINTR {
				continue
			}
			if n <= 0 {
				return
			}
			request, _, err := split(buf[:n])
			if err != nil {
				t.Errorf("request: %v", err)
				return
			}
			for _, datagram := range answer(request) {
				if _, err := unix.Write(pair[1], datagram); err != nil {
					t.Error(err)
				}
			}
		}
	}()
	conn := &Conn{fd: ownedfd.New(pair[0])}
	t.Cleanup(func() {
		_ = conn.Close()
		<-done
	})
	return conn
}

func TestTheKernelsExplanationIsPartOfTheError(t *testing.T) {
	header := message(unix.RTM_NEWROUTE, 0, 1)
	for name, tt := range map[string]struct {
		flags uint16
		body  []byte
		want  string
	}{
		"none":                   {0, append(number(-int32(unix.EEXIST)), header...), "file exists"},
		"without the request":    {unix.NLM_F_ACK_TLVS | unix.NLM_F_CAPPED, bytes.Join([][]byte{number(-int32(unix.EINVAL)), header, attribute(2, "\x01\x00\x00\x00"), attribute(1, "No way\x00")}, nil), "invalid argument (No way)"},
		"after the request":      {unix.NLM_F_ACK_TLVS, bytes.Join([][]byte{number(-int32(unix.EINVAL)), message(unix.RTM_NEWROUTE, 0, 1, 1, 2, 3, 4, 5), attribute(1, "No way\x00")}, nil), "invalid argument (No way)"},
		"that is cut":            {unix.NLM_F_ACK_TLVS, number(-int32(unix.EINVAL)), "invalid argument"},
		"with an absurd request": {unix.NLM_F_ACK_TLVS, append(number(-int32(unix.EINVAL)), bytes.Repeat([]byte{0xff}, 16)...), "invalid argument"},
		"an absurd number":       {0, number(17), "malformed netlink message: error 17"},
		"no number":              {0, []byte{1, 2}, "malformed netlink message: verdict of 2 bytes"},
	} {
		conn := kernel(t, func(request Message) [][]byte {
			return [][]byte{message(unix.NLMSG_ERROR, tt.flags, request.seq, tt.body...)}
		})
		if err := conn.Do(NewRequest(unix.RTM_NEWROUTE, 0, make([]byte, 12))); err == nil || err.Error() != tt.want {
			t.Errorf("%s: %v, want %s", name, err, tt.want)
		}
	}
}

func TestAnErrorMatchesItsErrno(t *testing.T) {
	conn := kernel(t, func(request Message) [][]byte {
		return [][]byte{message(unix.NLMSG_ERROR, 0, request.seq, number(-int32(unix.ESRCH))...)}
	})
	if err := conn.Do(NewRequest(unix.RTM_DELROUTE, 0, nil)); !errors.Is(err, unix.ESRCH) {
		t.Errorf("error is %v", err)
	}
}

func TestAListThatChangedIsReadAgain(t *testing.T) {
	var calls atomic.Int32
	conn := kernel(t, func(request Message) [][]byte {
		if n := calls.Add(1); n < 3 {
			return [][]byte{
				message(unix.RTM_NEWLINK, unix.NLM_F_MULTI, request.seq, byte(n)),
				message(unix.NLMSG_DONE, unix.NLM_F_MULTI|unix.NLM_F_DUMP_INTR, request.seq, number(0)...),
			}
		}
		return [][]byte{
			append(message(unix.RTM_NEWLINK, unix.NLM_F_MULTI, request.seq, 3), message(unix.RTM_NEWLINK, unix.NLM_F_MULTI, request.seq, 4)...),
			message(unix.NLMSG_DONE, unix.NLM_F_MULTI, request.seq, number(0)...),
		}
	})
	list, err := conn.Dump(NewRequest(unix.RTM_GETLINK, 0, make([]byte, 16)))
	if err != nil || len(list) != 2 || list[0].Body[0] != 3 || list[1].Body[0] != 4 || calls.Load() != 3 {
		t.Errorf("list is %+v, %v, after %d calls", list, err, calls.Load())
	}
}

func TestAListThatNeverStopsChangingIsAnError(t *testing.T) {
	conn := kernel(t, func(request Message) [][]byte {
		return [][]byte{message(unix.NLMSG_DONE, unix.NLM_F_DUMP_INTR, request.seq, number(0)...)}
	})
	if _, err := conn.Dump(NewRequest(unix.RTM_GETLINK, 0, nil)); err == nil || !strings.Contains(err.Error(), "changed") {
		t.Errorf("error is %v", err)
	}
}

func TestAListCanFailAtItsEnd(t *testing.T) {
	conn := kernel(t, func(request Message) [][]byte {
		return [][]byte{message(unix.NLMSG_DONE, 0, request.seq, number(-int32(unix.EOPNOTSUPP))...)}
	})
	if _, err := conn.Dump(NewRequest(unix.RTM_GETLINK, 0, nil)); !errors.Is(err, unix.EOPNOTSUPP) {
		t.Errorf("error is %v", err)
	}
}

func TestAnswersToOtherRequestsAreSkipped(t *testing.T) {
	conn := kernel(t, func(request Message) [][]byte {
		return [][]byte{
			message(unix.NLMSG_ERROR, 0, request.seq-1, number(-int32(unix.EPERM))...),
			message(unix.NLMSG_NOOP, 0, request.seq),
			message(unix.NLMSG_ERROR, 0, request.seq, number(0)...),
		}
	})
	for range 2 {
		if err := conn.Do(NewRequest(unix.RTM_NEWLINK, 0, nil)); err != nil {
			t.Error(err)
		}
	}
}

func TestWhatIsNoMessageIsAnError(t *testing.T) {
	for _, datagram := range []string{"x", strings.Repeat("\xff", 16), strings.Repeat("\x00", 40)} {
		conn := kernel(t, func(Message) [][]byte { return [][]byte{[]byte(datagram)} })
		if err := conn.Do(NewRequest(unix.RTM_NEWLINK, 0, nil)); !errors.Is(err, ErrMalformed) {
			t.Errorf("%q: %v", datagram, err)
		}
	}
}

func TestALongDatagramIsReadWhole(t *testing.T) {
	body := bytes.Repeat([]byte{7}, 100_000)
	conn := kernel(t, func(request Message) [][]byte {
		return [][]byte{message(unix.RTM_NEWLINK, 0, request.seq, body...), message(unix.NLMSG_DONE, 0, request.seq)}
	})
	list, err := conn.Dump(NewRequest(unix.RTM_GETLINK, 0, nil))
	if err != nil || len(list) != 1 || !bytes.Equal(list[0].Body, body) {
		t.Errorf("%d messages, %v", len(list), err)
	}
}

func TestTheKernelAnswers(t *testing.T) {
	conn, err := Dial()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	list, err := conn.Dump(NewRequest(unix.RTM_GETLINK, 0, make([]byte, unix.SizeofIfInfomsg)))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, m := range list {
		attrs := m.Attributes(unix.SizeofIfInfomsg)
		for attrs.Next() {
			if attrs.Type() == unix.IFLA_IFNAME {
				names = append(names, attrs.String())
			}
		}
		if attrs.Err() != nil {
			t.Error(attrs.Err())
		}
	}
	if len(names) != len(list) || names[0] != "lo" {
		t.Errorf("devices are %q", names)
	}
	if err := conn.Do(NewRequest(unix.RTM_NEWLINK, 0, []byte{1})); !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.EPERM) {
		t.Errorf("a request that is too short: %v", err)
	}
}

func TestARequestIsReadAsItWasWritten(t *testing.T) {
	r := NewRequest(unix.RTM_NEWROUTE, unix.NLM_F_CREATE, []byte{1, 2, 3, 4})
	r.Bytes(1, []byte{9, 9, 9})
	r.Uint32(2, 77)
	nest := r.Begin(3)
	r.String(4, "odd")
	r.String(5, "even")
	r.End(nest)
	nest = r.Begin(6)
	structure := r.BeginStruct([]byte{0, 0, 1, 2})
	r.Uint32(7, 5)
	r.End(structure)
	r.End(nest)
	m, rest, err := split(r.encode(unix.NLM_F_ACK, 42))
	if err != nil || len(rest) != 0 || m.Type != unix.RTM_NEWROUTE || m.seq != 42 || m.flags != unix.NLM_F_REQUEST|unix.NLM_F_ACK|unix.NLM_F_CREATE {
		t.Fatalf("%+v, %d bytes more, %v", m, len(rest), err)
	}
	var texts []string
	attrs := m.Attributes(4)
	for attrs.Next() {
		switch attrs.Type() {
		case 1:
			if !bytes.Equal(attrs.Bytes(), []byte{9, 9, 9}) {
				t.Errorf("bytes are %v", attrs.Bytes())
			}
		case 2:
			if n := attrs.Uint32(); n != 77 {
				t.Errorf("number is %d", n)
			}
		case 3:
			for nested := attrs.Nested(); nested.Next(); {
				texts = append(texts, nested.String())
			}
		case 6:
			if b := attrs.Bytes(); len(b) != 12 || binary.NativeEndian.Uint16(b) != 12 || b[3] != 2 {
				t.Errorf("structure is %v", b)
			}
		}
	}
	if attrs.Err() != nil || strings.Join(texts, " ") != "odd even" {
		t.Errorf("texts are %q, %v", texts, attrs.Err())
	}
}

func TestWhatIsNoAttributeIsAnError(t *testing.T) {
	for name, b := range map[string][]byte{
		"a part of one":       {8, 0, 1},
		"one that is too big": {9, 0, 1, 0, 1, 2, 3, 4},
		"one without length":  {0, 0, 1, 0},
		"a length of 3":       {3, 0, 1, 0},
		"one byte behind":     {4, 0, 1, 0, 7},
		"a number of 3 bytes": {7, 0, 1, 0, 1, 2, 3},
		"a number of none":    {4, 0, 1, 0},
	} {
		attrs := ParseAttributes(b)
		for attrs.Next() {
			if n := attrs.Uint32(); n != 0 {
				t.Errorf("%s: number %d", name, n)
			}
		}
		if !errors.Is(attrs.Err(), ErrMalformed) {
			t.Errorf("%s: %v", name, attrs.Err())
		}
	}
	m := Message{Body: make([]byte, 3)}
	attrs := m.Attributes(4)
	if attrs.Next() || !errors.Is(attrs.Err(), ErrMalformed) {
		t.Errorf("a message without its fixed part: %v", attrs.Err())
	}
}

func FuzzMessages(f *testing.F) {
	r := NewRequest(unix.RTM_NEWROUTE, 0, make([]byte, 12))
	nest := r.Begin(8)
	r.Uint32(2, 1500)
	r.End(nest)
	f.Add(r.encode(0, 1))
	f.Add(message(unix.NLMSG_ERROR, unix.NLM_F_ACK_TLVS, 1, append(number(-22), attribute(1, "text")...)...))
	f.Fuzz(func(t *testing.T, b []byte) {
		for len(b) > 0 {
			m, rest, err := split(b)
			if err != nil {
				return
			}
			if len(rest) >= len(b) {
				t.Fatal("no progress")
			}
			b = rest
			_ = verdict(m)
			total := 0
			for attrs := m.Attributes(12); attrs.Next(); {
				total += len(attrs.Bytes())
				_, _ = attrs.Uint32(), attrs.String()
				for nested := attrs.Nested(); nested.Next(); {
					_ = nested.Bytes()
				}
			}
			if total > len(m.Body) {
				t.Errorf("%d bytes of attributes in %d", total, len(m.Body))
			}
		}
	})
}
