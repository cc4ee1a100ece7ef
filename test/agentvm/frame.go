package agentvm

import "encoding/binary"

// Frame returns a request as it is on the wire, for clients that break the rules
// which those of package ttrpc keep.
func Frame(stream uint32, service, method string, payload []byte) []byte {
	var body []byte
	for i, field := range [][]byte{[]byte(service), []byte(method), payload} {
		body = append(body, byte(i+1)<<3|2)
		body = binary.AppendUvarint(body, uint64(len(field)))
		body = append(body, field...)
	}
	return append(FrameHeader(uint32(len(body)), stream), body...)
}

// FrameHeader returns the header of a request whose body has so many bytes.
func FrameHeader(length, stream uint32) []byte {
	header := binary.BigEndian.AppendUint32(nil, length)
	header = binary.BigEndian.AppendUint32(header, stream)
	return append(header, 1, 0)
}
