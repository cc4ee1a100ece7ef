package ttrpc

import (
	"errors"
	"strings"
	"time"

	"kata/api/wire"
)

// The messages around a payload, by hand: the payload is encoded in place, and
// the names of service and method are looked up without copying them.

// Tags of the fields: number<<3 | wire type.
const (
	tagRequestService  = 1<<3 | wire.Bytes
	tagRequestMethod   = 2<<3 | wire.Bytes
	tagRequestPayload  = 3<<3 | wire.Bytes
	tagRequestTimeout  = 4<<3 | wire.Varint
	tagRequestMetadata = 5<<3 | wire.Bytes
	tagPairKey         = 1<<3 | wire.Bytes
	tagPairValue       = 2<<3 | wire.Bytes
	tagResponseStatus  = 1<<3 | wire.Bytes
	tagResponsePayload = 2<<3 | wire.Bytes
	tagStatusCode      = 1<<3 | wire.Varint
	tagStatusMessage   = 2<<3 | wire.Bytes
)

const (
	// maxMetadata bounds what a request may make the server allocate.
	maxMetadata = 128
	// maxStatusText is where the message of an error is cut.
	maxStatusText = 32 << 10
)

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
	d := wire.NewDecoder(b)
	for d.Next() {
		switch d.Tag() {
		case tagRequestService:
			r.service = d.View()
		case tagRequestMethod:
			r.method = d.View()
		case tagRequestPayload:
			r.payload = d.View()
		case tagRequestTimeout:
			r.timeout = time.Duration(d.Uint64())
		case tagRequestMetadata:
			if len(r.metadata) == maxMetadata {
				return request{}, errors.New("too much metadata")
			}
			key, value := d.Entry()
			r.metadata = append(r.metadata, Pair{key, value.String()})
		}
	}
	return r, d.Err()
}

// parseResponse decodes a response body into the payload, which is part of b,
// or the error that the server answered.
func parseResponse(b []byte) (payload []byte, status *Error, err error) {
	d := wire.NewDecoder(b)
	for d.Next() {
		switch d.Tag() {
		case tagResponseStatus:
			if status, err = parseStatus(d.View()); err != nil {
				return nil, nil, err
			}
		case tagResponsePayload:
			payload = d.View()
		}
	}
	if status != nil && status.Code == OK {
		status = nil
	}
	return payload, status, d.Err()
}

func parseStatus(b []byte) (*Error, error) {
	status := new(Error)
	d := wire.NewDecoder(b)
	for d.Next() {
		switch d.Tag() {
		case tagStatusCode:
			status.Code = Code(d.Uint64())
		case tagStatusMessage:
			status.Message = d.String()
		}
	}
	return status, d.Err()
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
func appendPayload(b []byte, tag byte, m Answer) ([]byte, error) {
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
func appendResponse(b []byte, stream uint32, m Answer) ([]byte, error) {
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
