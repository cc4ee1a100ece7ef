package vhostuser

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// ErrFrontend is wrapped by errors caused by a VMM that breaks the protocol.
var ErrFrontend = errors.New("vhost-user front-end broke the protocol")

// ErrDriver is wrapped by errors caused by a guest driver that breaks the
// rules of virtqueues or of the device.
var ErrDriver = errors.New("guest driver broke the rules")

// Virtio feature bits that this package understands (virtio 1.2, section 6);
// they are offered to every driver beside the device's own.
const (
	featureIndirect = 1 << 28 // VIRTIO_F_INDIRECT_DESC
	featureEventIdx = 1 << 29 // VIRTIO_F_EVENT_IDX
	featureProtocol = 1 << 30 // VHOST_USER_F_PROTOCOL_FEATURES, never seen by the guest
	featureVersion1 = 1 << 32 // VIRTIO_F_VERSION_1

	transportFeatures = featureIndirect | featureEventIdx | featureProtocol | featureVersion1
)

// Protocol features (vhost-user.rst, "Protocol features").
const (
	protocolMQ          = 1 << 0
	protocolReplyAck    = 1 << 3
	protocolConfig      = 1 << 9
	protocolResetDevice = 1 << 13
	protocolMemSlots    = 1 << 15 // CONFIGURE_MEM_SLOTS

	protocolFeatures = protocolMQ | protocolReplyAck | protocolConfig | protocolResetDevice | protocolMemSlots
)

// request is the number of a front-end message.
type request uint32

// Front-end requests (vhost-user.rst, "Front-end message types").
const (
	reqGetFeatures         request = 1
	reqSetFeatures         request = 2
	reqSetOwner            request = 3
	reqResetOwner          request = 4
	reqSetMemTable         request = 5
	reqSetVringNum         request = 8
	reqSetVringAddr        request = 9
	reqSetVringBase        request = 10
	reqGetVringBase        request = 11
	reqSetVringKick        request = 12
	reqSetVringCall        request = 13
	reqSetVringErr         request = 14
	reqGetProtocolFeatures request = 15
	reqSetProtocolFeatures request = 16
	reqGetQueueNum         request = 17
	reqSetVringEnable      request = 18
	reqGetConfig           request = 24
	reqSetConfig           request = 25
	reqResetDevice         request = 34
	reqGetMaxMemSlots      request = 36
	reqAddMemReg           request = 37
	reqRemMemReg           request = 38
)

const (
	headerSize = 12
	// maxPayload bounds a message's payload. The longest legal one is a
	// configuration write: 12 + 256 bytes, or a memory table: 8 + 8*32.
	maxPayload = 1024
	// maxConfig is VHOST_USER_MAX_CONFIG_SIZE, the largest device
	// configuration space.
	maxConfig = 256
	// maxFDs is the most descriptors a message may carry: one a memory
	// region (VHOST_MEMORY_BASELINE_NREGIONS).
	maxFDs = 8
	// maxSlots is the number of memory regions we take by ADD_MEM_REG.
	maxSlots = 256

	flagVersion     = 0x1
	flagVersionMask = 0x3
	flagReply       = 0x4
	flagNeedReply   = 0x8

	vringIndexMask = 0xff
	vringNoFD      = 0x100

	regionSize    = 32 // guest address, size, user address, mmap offset
	vringAddrSize = 40
	configHdrSize = 12
)

// header starts every message.
type header struct {
	request request
	flags   uint32
	size    uint32 // of the payload
}

func (h header) needReply() bool { return h.flags&flagNeedReply != 0 }

func parseHeader(b []byte) (header, error) {
	h := header{
		request: request(binary.LittleEndian.Uint32(b[0:])),
		flags:   binary.LittleEndian.Uint32(b[4:]),
		size:    binary.LittleEndian.Uint32(b[8:]),
	}
	switch {
	case h.flags&flagVersionMask != flagVersion:
		return h, fmt.Errorf("%w: message %d has version %d, not 1", ErrFrontend, h.request, h.flags&flagVersionMask)
	case h.flags&flagReply != 0:
		return h, fmt.Errorf("%w: message %d is a reply to nothing", ErrFrontend, h.request)
	case h.size > maxPayload:
		return h, fmt.Errorf("%w: message %d has a payload of %d bytes", ErrFrontend, h.request, h.size)
	}
	return h, nil
}

// appendReply appends a reply to request req.
func appendReply(b []byte, req request, payload []byte) []byte {
	b = binary.LittleEndian.AppendUint32(b, uint32(req))
	b = binary.LittleEndian.AppendUint32(b, flagVersion|flagReply)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(payload)))
	return append(b, payload...)
}

func u64Payload(v uint64) []byte {
	return binary.LittleEndian.AppendUint64(nil, v)
}

// wantSize refuses a payload that is not exactly n bytes.
func wantSize(p []byte, n int) error {
	if len(p) != n {
		return fmt.Errorf("%w: payload of %d bytes, want %d", ErrFrontend, len(p), n)
	}
	return nil
}

func parseU64(p []byte) (uint64, error) {
	if err := wantSize(p, 8); err != nil {
		return 0, err
	}
	return binary.LittleEndian.Uint64(p), nil
}

// vringState is the payload of SET_VRING_NUM, _BASE, _ENABLE, GET_VRING_BASE.
type vringState struct {
	index uint32
	value uint32
}

func parseVringState(p []byte) (vringState, error) {
	if err := wantSize(p, 8); err != nil {
		return vringState{}, err
	}
	return vringState{
		index: binary.LittleEndian.Uint32(p[0:]),
		value: binary.LittleEndian.Uint32(p[4:]),
	}, nil
}

func (s vringState) payload() []byte {
	b := binary.LittleEndian.AppendUint32(nil, s.index)
	return binary.LittleEndian.AppendUint32(b, s.value)
}

// vringAddr is the payload of SET_VRING_ADDR; addresses are the front-end's.
type vringAddr struct {
	index             uint32
	desc, used, avail uint64
}

func parseVringAddr(p []byte) (vringAddr, error) {
	if err := wantSize(p, vringAddrSize); err != nil {
		return vringAddr{}, err
	}
	return vringAddr{
		index: binary.LittleEndian.Uint32(p[0:]),
		desc:  binary.LittleEndian.Uint64(p[8:]),
		used:  binary.LittleEndian.Uint64(p[16:]),
		avail: binary.LittleEndian.Uint64(p[24:]),
	}, nil
}

// Region is one stretch of guest memory as the front-end describes it.
type Region struct {
	Guest  uint64 // guest physical address
	Size   uint64 // bytes
	User   uint64 // the same place in the front-end's address space
	Offset uint64 // into the descriptor that backs it
}

func (r Region) String() string {
	return fmt.Sprintf("region guest %#x size %#x user %#x offset %#x", r.Guest, r.Size, r.User, r.Offset)
}

// check refuses regions that are empty or wrap around.
func (r Region) check() error {
	if r.Size == 0 || r.Size > 1<<62 || r.Offset > 1<<62 ||
		r.Guest+r.Size < r.Guest || r.User+r.Size < r.User {
		return fmt.Errorf("%w: impossible memory %v", ErrFrontend, r)
	}
	return nil
}

// checkNew refuses a region that overlaps one of a table.
func checkNew(r Region, old []Region) error {
	for _, o := range old {
		if r.Guest < o.Guest+o.Size && o.Guest < r.Guest+r.Size ||
			r.User < o.User+o.Size && o.User < r.User+r.Size {
			return fmt.Errorf("%w: %v overlaps %v", ErrFrontend, r, o)
		}
	}
	return nil
}

// findOld finds a region that is to be removed from a table.
func findOld(r Region, old []Region) (int, error) {
	for i, o := range old {
		if o.Guest == r.Guest && o.Size == r.Size && o.User == r.User {
			return i, nil
		}
	}
	return 0, fmt.Errorf("%w: removed %v that was never added", ErrFrontend, r)
}

func parseRegion(p []byte) (Region, error) {
	r := Region{
		Guest:  binary.LittleEndian.Uint64(p[0:]),
		Size:   binary.LittleEndian.Uint64(p[8:]),
		User:   binary.LittleEndian.Uint64(p[16:]),
		Offset: binary.LittleEndian.Uint64(p[24:]),
	}
	return r, r.check()
}

// parseMemTable decodes SET_MEM_TABLE's payload.
func parseMemTable(p []byte) ([]Region, error) {
	if len(p) < 8 {
		return nil, fmt.Errorf("%w: memory table of %d bytes", ErrFrontend, len(p))
	}
	n := binary.LittleEndian.Uint32(p)
	if n > maxFDs {
		return nil, fmt.Errorf("%w: memory table of %d regions", ErrFrontend, n)
	}
	if err := wantSize(p, 8+int(n)*regionSize); err != nil {
		return nil, err
	}
	regions := make([]Region, n)
	for i := range regions {
		r, err := parseRegion(p[8+i*regionSize:])
		if err != nil {
			return nil, err
		}
		regions[i] = r
	}
	return regions, nil
}

// parseMemReg decodes the payload of ADD_MEM_REG and REM_MEM_REG.
func parseMemReg(p []byte) (Region, error) {
	if err := wantSize(p, 8+regionSize); err != nil {
		return Region{}, err
	}
	return parseRegion(p[8:])
}

// configSpan is the head of GET_CONFIG's and SET_CONFIG's payload.
type configSpan struct {
	offset, size uint32
	data         []byte // size bytes, part of the payload
}

func parseConfig(p []byte) (configSpan, error) {
	if len(p) < configHdrSize {
		return configSpan{}, fmt.Errorf("%w: configuration message of %d bytes", ErrFrontend, len(p))
	}
	c := configSpan{
		offset: binary.LittleEndian.Uint32(p[0:]),
		size:   binary.LittleEndian.Uint32(p[4:]),
		data:   p[configHdrSize:],
	}
	if c.size > maxConfig || c.offset > maxConfig-c.size || len(c.data) != int(c.size) {
		return configSpan{}, fmt.Errorf("%w: configuration bytes %d+%d in %d bytes", ErrFrontend, c.offset, c.size, len(c.data))
	}
	return c, nil
}
