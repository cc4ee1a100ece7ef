package ttrpc

import (
	"errors"
	"io"
)

const (
	headerSize = 10
	// MaxMessage is the largest body of a frame in bytes. A larger message is
	// answered ResourceExhausted and the connection lives on.
	MaxMessage = 4 << 20
	// keepBuffer is the largest buffer that a connection keeps between frames.
	keepBuffer = 32 << 10
	// firstBuffer is the largest buffer for a frame of which nothing has come.
	firstBuffer = 64 << 10
	// minBuffer holds most frames of the agent API.
	minBuffer = 4 << 10
)

// Message types; other values are for protocols to come and are ignored.
const (
	typeRequest  = 1
	typeResponse = 2
	typeData     = 3
)

// header is the start of a frame. The flags (1 remote closed, 2 remote open, 4
// no data) matter to streams only: as in containerd/ttrpc a unary method
// answers whatever they are.
type header struct {
	length uint32
	stream uint32
	kind   uint8
	flags  uint8
}

func parseHeader(b []byte) header {
	return header{length: bigEndian(b), stream: bigEndian(b[4:]), kind: b[8], flags: b[9]}
}

func bigEndian(b []byte) uint32 {
	return uint32(b[0])<<24 | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3])
}

func putHeader(b []byte, h header) {
	putBigEndian(b, h.length)
	putBigEndian(b[4:], h.stream)
	b[8], b[9] = h.kind, h.flags
}

func putBigEndian(b []byte, v uint32) {
	b[0], b[1], b[2], b[3] = byte(v>>24), byte(v>>16), byte(v>>8), byte(v)
}

// frameReader cuts a byte stream into frames.
type frameReader struct {
	r     io.Reader
	limit uint32 // bytes of a body, at most MaxMessage
	// buf[from:to] is read and not yet handed out.
	buf      []byte
	from, to int
}

// next returns the next frame. The body is valid until the next call. A body
// over the limit is read, thrown away and reported by oversized. The error is
// io.EOF only between two frames.
func (f *frameReader) next() (h header, body []byte, oversized bool, err error) {
	if f.from == f.to {
		f.from, f.to = 0, 0
		if cap(f.buf) > keepBuffer {
			f.buf = nil
		}
	}
	if err := f.fill(headerSize); err != nil {
		return header{}, nil, false, err
	}
	h = parseHeader(f.buf[f.from:])
	f.from += headerSize
	if h.length > f.limit {
		return h, nil, true, unexpected(f.discard(int64(h.length)))
	}
	n := int(h.length)
	if err := f.fill(n); err != nil {
		return h, nil, false, unexpected(err)
	}
	body = f.buf[f.from : f.from+n : f.from+n]
	f.from += n
	return h, body, false, nil
}

// fill reads until n bytes are at hand. The error is io.EOF only when there was
// not a single byte. The buffer grows with what has come, not with what a header
// announces.
func (f *frameReader) fill(n int) error {
	for had := f.to > f.from; f.to-f.from < n; {
		have := f.to - f.from
		if f.from+n > len(f.buf) {
			into := f.buf
			if want := min(n, max(2*have, firstBuffer)); want > len(into) {
				into = make([]byte, max(want, minBuffer))
			}
			f.to = copy(into, f.buf[f.from:f.to])
			f.buf, f.from = into, 0
		}
		got, err := io.ReadAtLeast(f.r, f.buf[f.to:], min(n, len(f.buf)-f.from)-have)
		f.to += got
		if err != nil {
			if had || f.to > f.from {
				err = unexpected(err)
			}
			return err
		}
	}
	return nil
}

// discard throws n bytes away.
func (f *frameReader) discard(n int64) error {
	for n > 0 {
		if f.from == f.to {
			got, err := f.r.Read(f.buf)
			if got == 0 && err != nil {
				return err
			}
			f.from, f.to = 0, got
		}
		took := min(n, int64(f.to-f.from))
		f.from += int(took)
		n -= took
	}
	return nil
}

// unexpected marks the end of the stream as one in the middle of a frame.
func unexpected(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
