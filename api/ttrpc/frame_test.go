package ttrpc

import (
	"bytes"
	"errors"
	"io"
	"testing"
	"testing/iotest"
	"time"
)

// frames reads everything that r has; bodies are copied.
func frames(r io.Reader) (got []string, err error) {
	f := frameReader{r: r, limit: MaxMessage}
	for {
		h, body, oversized, err := f.next()
		if err != nil {
			return got, err
		}
		if oversized {
			body = []byte("oversized")
		}
		got = append(got, string(body)+"@"+string(rune('0'+h.stream%10)))
		if cap(f.buf) > max(keepBuffer, len(body)+headerSize+minBuffer) {
			return got, errors.New("buffer grew beyond the frame")
		}
	}
}

// FuzzFrameReader compares reading at once with reading byte by byte.
func FuzzFrameReader(f *testing.F) {
	small, _ := finish([]byte("0123456789small"), 0, 1, typeRequest)
	large, _ := finish(make([]byte, 10<<10), 0, 3, typeRequest)
	f.Add(small)
	f.Add(append(large, small...))
	f.Add(append(small, small[:7]...))
	f.Add(append([]byte{0, 0x40, 0, 1, 0, 0, 0, 5, 1, 0}, make([]byte, 10<<10)...))
	f.Fuzz(func(t *testing.T, data []byte) {
		whole, err := frames(bytes.NewReader(data))
		single, err1 := frames(iotest.OneByteReader(bytes.NewReader(data)))
		if len(whole) != len(single) || err != err1 {
			t.Fatalf("at once %d frames and %v, by bytes %d and %v", len(whole), err, len(single), err1)
		}
		for i := range whole {
			if whole[i] != single[i] {
				t.Fatalf("frame %d: at once %q, by bytes %q", i, whole[i], single[i])
			}
		}
		if err != io.EOF && err != io.ErrUnexpectedEOF {
			t.Fatal(err)
		}
	})
}

// FuzzEnvelope parses arbitrary bytes and, where they are a request, makes the
// same request again.
func FuzzEnvelope(f *testing.F) {
	b, _ := appendRequest(nil, 1, "s", "m", raw("payload"), time.Second, []Pair{{"k", "v"}, {"", ""}})
	f.Add(b[headerSize:])
	f.Add(appendStatus(nil, 1, NotFound, "text")[headerSize:])
	f.Add([]byte("\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"))
	f.Fuzz(func(t *testing.T, data []byte) {
		_, _, _ = parseResponse(data)
		r, err := parseRequest(data)
		if err != nil || len(data) > MaxMessage {
			return
		}
		b, err := appendRequest(nil, 7, string(r.service), string(r.method), raw(r.payload), r.timeout, r.metadata)
		if err != nil {
			if CodeOf(err) == ResourceExhausted {
				return // lengths need more bytes when fields merge or shrink
			}
			t.Fatal(err)
		}
		if h := parseHeader(b); h != (header{uint32(len(b) - headerSize), 7, typeRequest, 0}) {
			t.Fatalf("header %+v for %d bytes", h, len(b))
		}
		again, err := parseRequest(b[headerSize:])
		if err != nil {
			t.Fatal(err)
		}
		same := bytes.Equal(r.service, again.service) && bytes.Equal(r.method, again.method) &&
			bytes.Equal(r.payload, again.payload) && r.timeout == again.timeout && len(r.metadata) == len(again.metadata)
		for i := range r.metadata {
			same = same && r.metadata[i] == again.metadata[i]
		}
		if !same {
			t.Fatalf("%+v became %+v", r, again)
		}
	})
}

// TestFrameReaderBuffer shows that an oversized frame is thrown away in full,
// the next one is found, and a large buffer does not stay.
func TestFrameReaderBuffer(t *testing.T) {
	oversized := make([]byte, headerSize+MaxMessage+1)
	putHeader(oversized, header{MaxMessage + 1, 5, typeRequest, 0})
	large, err := finish(make([]byte, headerSize+MaxMessage), 0, 7, typeRequest)
	if err != nil {
		t.Fatal(err)
	}
	small, _ := finish([]byte("0123456789small"), 0, 9, typeRequest)
	all := bytes.Join([][]byte{small, oversized, large, oversized, small}, nil)
	got, err := frames(iotest.HalfReader(bytes.NewReader(all)))
	if err != io.EOF || len(got) != 5 || got[1] != "oversized@5" || len(got[2]) != MaxMessage+2 || got[4] != "small@9" {
		t.Errorf("%d frames, %v", len(got), err)
	}
}

// raw is an encoded message.
type raw []byte

func (r raw) SizeVT() int                                  { return len(r) }
func (r raw) MarshalToSizedBufferVT(b []byte) (int, error) { return copy(b[len(b)-len(r):], r), nil }
func (r raw) UnmarshalVT([]byte) error                     { return nil }

func TestStatusTextIsBounded(t *testing.T) {
	b := appendStatus(nil, 1, Internal, string(make([]byte, MaxMessage)))
	_, status, err := parseResponse(b[headerSize:])
	if err != nil || status.Code != Internal || len(status.Message) > maxStatusText+3 {
		t.Errorf("%d bytes of text, %v", len(status.Message), err)
	}
}
