package vsock

import (
	"encoding/binary"
	"fmt"
)

// Addresses (virtio 1.2, 5.10.4; Linux include/uapi/linux/vm_sockets.h).
const (
	// HostCID is the context id of the host.
	HostCID = 2
	minCID  = 3
	maxCID  = 1<<32 - 2
)

// Packets (virtio 1.2, 5.10.6; Linux include/uapi/linux/virtio_vsock.h).
const (
	headerSize = 44

	typeStream = 1

	opRequest       = 1
	opResponse      = 2
	opReset         = 3
	opShutdown      = 4
	opData          = 5
	opCreditUpdate  = 6
	opCreditRequest = 7

	shutReceive = 1
	shutSend    = 2
	shutBoth    = shutReceive | shutSend

	// maxData is the most data one packet carries, as Linux limits it.
	maxData = 64 << 10
)

// header is struct virtio_vsock_hdr.
type header struct {
	srcCID, dstCID   uint64
	srcPort, dstPort uint32
	size             uint32 // of the data
	typ, op          uint16
	flags            uint32
	bufAlloc         uint32 // the sender's receive buffer
	fwdCnt           uint32 // bytes that left it, modulo 1<<32
}

func (h *header) marshal(b *[headerSize]byte) {
	le := binary.LittleEndian
	le.PutUint64(b[0:], h.srcCID)
	le.PutUint64(b[8:], h.dstCID)
	le.PutUint32(b[16:], h.srcPort)
	le.PutUint32(b[20:], h.dstPort)
	le.PutUint32(b[24:], h.size)
	le.PutUint16(b[28:], h.typ)
	le.PutUint16(b[30:], h.op)
	le.PutUint32(b[32:], h.flags)
	le.PutUint32(b[36:], h.bufAlloc)
	le.PutUint32(b[40:], h.fwdCnt)
}

func parseHeader(b *[headerSize]byte) header {
	le := binary.LittleEndian
	return header{
		srcCID:   le.Uint64(b[0:]),
		dstCID:   le.Uint64(b[8:]),
		srcPort:  le.Uint32(b[16:]),
		dstPort:  le.Uint32(b[20:]),
		size:     le.Uint32(b[24:]),
		typ:      le.Uint16(b[28:]),
		op:       le.Uint16(b[30:]),
		flags:    le.Uint32(b[32:]),
		bufAlloc: le.Uint32(b[36:]),
		fwdCnt:   le.Uint32(b[40:]),
	}
}

// refusal is the reset that answers h.
func (h *header) refusal() header {
	return header{
		srcCID: h.dstCID, dstCID: h.srcCID,
		srcPort: h.dstPort, dstPort: h.srcPort,
		typ: h.typ, op: opReset,
	}
}

// Addr is one end of a connection. It implements net.Addr.
type Addr struct {
	CID  uint64
	Port uint32
}

// Network returns "vsock".
func (a *Addr) Network() string { return "vsock" }

// String returns the address as "cid:port".
func (a *Addr) String() string { return fmt.Sprintf("%d:%d", a.CID, a.Port) }
