package ttrpc

import (
	"errors"
	"strings"
	"time"
)

// The messages around a payload, in protobuf by hand: two fixed messages do not
// need a generator, and the payload is encoded in place.

// Tags of the fields: number<<3 | wire type.
const (
	tagRequestService  = 1<<3 | wireBytes
	tagRequestMethod   = 2<<3 | wireBytes
	tagRequestPayload  = 3<<3 | wireBytes
	tagRequestTimeout  = 4<<3 | wireVarint
	tagRequestMetadata = 5<<3 | wireBytes
	tagPairKey         = 1<<3 | wireBytes
	tagPairValue       = 2<<3 | wireBytes
	tagResponseStatus  = 1<<3 | wireBytes
	tagResponsePayload = 2<<3 | wireBytes
	tagStatusCode      = 1<<3 | wireVarint
	tagStatusMessage   = 2<<3 | wireBytes
)

const (
	wireVarint  = 0
	wireFixed64 = 1
	wireBytes   = 2
	wireFixed32 = 5
)

const (
	// maxMetadata bounds what a request may make the server allocate.
	maxMetadata = 128
	// maxStatusText is where the message of an error is cut.
	maxStatusText = 32 << 10
)

var errMalformed = errors.New("malformed protobuf")

// request is a decoded Request; its bytes are part of the frame.
type request struct {
	service, method []byte
	payload         []byte
	timeout         time.Duration
	metadata        []Pair
}

// parseRequest decodes a request body. As protobuf has it, the last of several
// values counts and unknown fields are skipped.
func parseRequest(b []byte) (request, error) {
	var r request
	for len(b) > 0 {
		f, rest, ok := nextField(b)
		if !ok {
			return request{}, errMalformed
		}
		b = rest
		switch f.tag {
		case tagRequestService:
			r.service = f.bytes
		case tagRequestMethod:
			r.method = f.bytes
		case tagRequestPayload:
			r.payload = f.bytes
		case tagRequestTimeout:
			r.timeout = time.Duration(f.varint)
		case tagRequestMetadata:
			if len(r.metadata) == maxMetadata {
				return request{}, errors.New("too much metadata")
			}
			p, err := parsePair(f.bytes)
			if err != nil {
				return request{}, err
			}
			r.metadata = append(r.metadata, p)
		}
	}
	return r, nil
}

func parsePair(b []byte) (Pair, error) {
	var p Pair
	for len(b) > 0 {
		f, rest, ok := nextField(b)
		if !ok {
			return Pair{}, errMalformed
		}
		b = rest
		switch f.tag {
		case tagPairKey:
			p.Key = string(f.bytes)
		case tagPairValue:
			p.Value = string(f.bytes)
		}
	}
	return p, nil
}

// parseResponse decodes a response body into the payload, which is part of b,
// or the error that the server answered.
func parseResponse(b []byte) (payload []byte, status *Error, err error) {
	for len(b) > 0 {
		f, rest, ok := nextField(b)
		if !ok {
			return nil, nil, errMalformed
		}
		b = rest
		switch f.tag {
		case tagResponseStatus:
			if status, err = parseStatus(f.bytes); err != nil {
				return nil, nil, err
			}
		case tagResponsePayload:
			payload = f.bytes
		}
	}
	if status != nil && status.Code == OK {
		status = nil
	}
	return payload, status, nil
}

func parseStatus(b []byte) (*Error, error) {
	status := new(Error)
	for len(b) > 0 {
		f, rest, ok := nextField(b)
		if !ok {
			return nil, errMalformed
		}
		b = rest
		switch f.tag {
		case tagStatusCode:
			status.Code = Code(f.varint)
		case tagStatusMessage:
			status.Message = string(f.bytes)
		}
	}
	return status, nil
}

// field is one field of a protobuf message: a number in varint or bytes.
type field struct {
	tag    uint64
	varint uint64
	bytes  []byte
}

// nextField cuts the first field off b. Groups, which nobody uses, and numbers
// outside protobuf's range are malformed.
func nextField(b []byte) (f field, rest []byte, ok bool) {
	if f.tag, b, ok = uvarint(b); !ok || f.tag>>3 == 0 || f.tag>>3 >= 1<<29 {
		return field{}, nil, false
	}
	switch f.tag & 7 {
	case wireVarint:
		f.varint, b, ok = uvarint(b)
		return f, b, ok
	case wireFixed64:
		return skip(f, b, 8)
	case wireFixed32:
		return skip(f, b, 4)
	case wireBytes:
		var n uint64
		if n, b, ok = uvarint(b); !ok || n > uint64(len(b)) {
			return field{}, nil, false
		}
		f.bytes = b[:n:n]
		return f, b[n:], true
	}
	return field{}, nil, false
}

func skip(f field, b []byte, n int) (field, []byte, bool) {
	if len(b) < n {
		return field{}, nil, false
	}
	return f, b[n:], true
}

func uvarint(b []byte) (v uint64, rest []byte, ok bool) {
	for i, c := range b {
		if i == 9 && c > 1 {
			return 0, nil, false
		}
		v |= uint64(c&0x7f) << (7 * i)
		if c < 0x80 {
			return v, b[i+1:], true
		}
		if i == 9 {
			break
		}
	}
	return 0, nil, false
}

func appendUvarint(b []byte, v uint64) []byte {
	for v >= 0x80 {
		b = append(b, byte(v)|0x80)
		v >>= 7
	}
	return append(b, byte(v))
}

func appendString(b []byte, tag byte, s string) []byte {
	b = append(b, tag)
	b = appendUvarint(b, uint64(len(s)))
	return append(b, s...)
}

// appendPayload appends a field with the encoded message; nil is an empty one.
func appendPayload(b []byte, tag byte, m Message) ([]byte, error) {
	if m == nil {
		return b, nil
	}
	size := m.SizeVT()
	if size == 0 {
		return b, nil
	}
	if size > MaxMessage {
		return b, tooLarge(size)
	}
	b = append(b, tag)
	b = appendUvarint(b, uint64(size))
	b = grow(b, size)
	n, err := m.MarshalToSizedBufferVT(b[len(b)-size:])
	if err != nil {
		return b, Errorf(Internal, "encoding message: %w", err)
	}
	if n != size {
		return b, Errorf(Internal, "encoding message: %d of %d bytes: it changed meanwhile", n, size)
	}
	return b, nil
}

// grow lengthens b by n bytes of any content.
func grow(b []byte, n int) []byte {
	if len(b)+n <= cap(b) {
		return b[:len(b)+n]
	}
	return append(b, make([]byte, n)...)
}

func tooLarge(size int) error {
	return Errorf(ResourceExhausted, "message of %d bytes exceeds %d", size, MaxMessage)
}

// appendRequest appends a request frame.
func appendRequest(b []byte, stream uint32, service, method string, m Message, timeout time.Duration, metadata []Pair) ([]byte, error) {
	start := len(b)
	b = grow(b, headerSize)
	b = appendString(b, tagRequestService, service)
	b = appendString(b, tagRequestMethod, method)
	b, err := appendPayload(b, tagRequestPayload, m)
	if err != nil {
		return b[:start], err
	}
	if timeout != 0 {
		b = append(b, tagRequestTimeout)
		b = appendUvarint(b, uint64(timeout))
	}
	for _, p := range metadata {
		size := fieldSize(len(p.Key)) + fieldSize(len(p.Value))
		b = append(b, tagRequestMetadata)
		b = appendUvarint(b, uint64(size))
		b = appendString(b, tagPairKey, p.Key)
		b = appendString(b, tagPairValue, p.Value)
	}
	return finish(b, start, stream, typeRequest)
}

// appendResponse appends a response frame with a payload.
func appendResponse(b []byte, stream uint32, m Message) ([]byte, error) {
	start := len(b)
	b = grow(b, headerSize)
	b, err := appendPayload(b, tagResponsePayload, m)
	if err != nil {
		return b[:start], err
	}
	return finish(b, start, stream, typeResponse)
}

// appendStatus appends a response frame that reports an error. The text is cut
// where it is absurdly long, and made valid UTF-8, since receivers refuse a
// message with anything else.
func appendStatus(b []byte, stream uint32, code Code, text string) []byte {
	if len(text) > maxStatusText {
		text = text[:maxStatusText] + "…"
	}
	text = strings.ToValidUTF8(text, "\uFFFD")
	start := len(b)
	b = grow(b, headerSize)
	size := 1 + uvarintSize(uint64(code)) + fieldSize(len(text))
	b = append(b, tagResponseStatus)
	b = appendUvarint(b, uint64(size))
	b = append(b, tagStatusCode)
	b = appendUvarint(b, uint64(code))
	b = appendString(b, tagStatusMessage, text)
	b, _ = finish(b, start, stream, typeResponse) // far below the limit
	return b
}

// finish writes the header of the frame that starts at start.
func finish(b []byte, start int, stream uint32, kind uint8) ([]byte, error) {
	size := len(b) - start - headerSize
	if size > MaxMessage {
		return b[:start], tooLarge(size)
	}
	putHeader(b[start:], header{length: uint32(size), stream: stream, kind: kind})
	return b, nil
}

// fieldSize is the encoded size of a bytes field with a one-byte tag.
func fieldSize(n int) int { return 1 + uvarintSize(uint64(n)) + n }

func uvarintSize(v uint64) int {
	n := 1
	for v >= 0x80 {
		v >>= 7
		n++
	}
	return n
}
