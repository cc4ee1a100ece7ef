package vhostuser

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"time"
)

// session is one VMM being served. Its fields belong to the goroutine that
// reads messages.
type session struct {
	dev  Device
	log  *slog.Logger
	conn *net.UnixConn

	space  *space
	memory table // the current content of space
	empty  table // one without regions
	queues []*Queue

	features uint64 // acknowledged
	protocol uint64 // acknowledged protocol features

	fail    context.CancelCauseFunc
	kickers sync.WaitGroup
}

// Serve answers the VMM on conn, which it takes over, and drives dev until
// the VMM closes the connection (nil), ctx ends (its cause), or the guest or
// the VMM breaks a rule (an error that wraps [ErrDriver] or [ErrFrontend]) or
// something here fails. All goroutines, descriptors and mappings of the
// session are released when it returns; every queue is stopped.
//
// Guest memory is mapped: the VMM must share it (memfd or file, share=on).
func Serve(ctx context.Context, conn *net.UnixConn, dev Device, log *slog.Logger) error {
	return run(ctx, conn, dev, log, newMapped(nil))
}

// ServeRemote is [Serve] with remote memory: that of the process pid, the VMM,
// which must not be reaped before ServeRemote has returned. It is what a guest
// needs whose memory is a private copy of a file. This process needs the right to
// trace the VMM (ptrace(2), PTRACE_MODE_ATTACH).
func ServeRemote(ctx context.Context, conn *net.UnixConn, dev Device, log *slog.Logger, pid int) error {
	return run(ctx, conn, dev, log, newRemote(pid, nil))
}

func run(ctx context.Context, conn *net.UnixConn, dev Device, log *slog.Logger, empty table) error {
	defer conn.Close()
	if binary.NativeEndian.Uint16([]byte{1, 0}) != 1 {
		return errors.New("serve vhost-user device: big-endian hosts are not supported")
	}
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	s := &session{dev: dev, log: log, conn: conn, space: newSpace(empty), memory: empty, empty: empty, fail: fail}
	for i := range dev.Queues() {
		s.queues = append(s.queues, newQueue(i, s.space, fail))
	}
	dev.Attach(s.queues)
	defer s.release()

	// A deadline in the past unblocks the reader whatever it waits for.
	stop := context.AfterFunc(ctx, func() {
		_ = conn.SetDeadline(time.Unix(1, 0))
		s.unblock()
	})
	defer stop()

	err := s.loop()
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// unblock lets queues go on that wait for the VMM to take an interrupt.
func (s *session) unblock() {
	for _, q := range s.queues {
		q.call.release()
	}
}

// release stops all queues and gives back what they and memory hold.
func (s *session) release() {
	s.unblock()
	for _, q := range s.queues {
		s.stop(q)
		q.setCall(-1)
	}
	s.kickers.Wait()
	s.space.replace(s.empty)
}

func (s *session) loop() error {
	r := newReader(s.conn)
	for {
		m, err := r.next()
		if err != nil {
			return err
		}
		err = s.answer(m)
		m.fds.close()
		if err != nil {
			return err
		}
	}
}

// answer handles one message and sends what it calls for: its own reply, or
// an acknowledgement if the front-end wants one. Failures are acknowledged as
// such before the session ends.
func (s *session) answer(m *message) error {
	reply, err := s.handle(m)
	if err != nil {
		err = fmt.Errorf("vhost-user message %d: %w", m.request, err)
	}
	if reply == nil && m.needReply() && s.protocol&protocolReplyAck != 0 {
		reply = u64Payload(0)
		if err != nil {
			reply = u64Payload(1)
		}
	}
	if reply != nil {
		if _, werr := s.conn.Write(appendReply(nil, m.request, reply)); werr != nil && err == nil {
			err = fmt.Errorf("reply to vhost-user message %d: %w", m.request, werr)
		}
	}
	return err
}

// handle obeys m and returns its reply, nil if it has none of its own.
func (s *session) handle(m *message) ([]byte, error) {
	switch m.request {
	case reqGetFeatures:
		return u64Payload(s.dev.Features() | transportFeatures), wantSize(m.payload, 0)
	case reqSetFeatures:
		return nil, s.setFeatures(m)
	case reqGetProtocolFeatures:
		return u64Payload(protocolFeatures), wantSize(m.payload, 0)
	case reqSetProtocolFeatures:
		return nil, s.setProtocolFeatures(m)
	case reqGetQueueNum:
		return u64Payload(uint64(len(s.queues))), wantSize(m.payload, 0)
	case reqSetOwner:
		return nil, wantSize(m.payload, 0)
	case reqResetOwner, reqResetDevice:
		return nil, s.reset(m)
	case reqSetMemTable:
		return nil, s.setMemTable(m)
	case reqGetMaxMemSlots:
		return u64Payload(maxSlots), wantSize(m.payload, 0)
	case reqAddMemReg:
		return nil, s.addMemReg(m)
	case reqRemMemReg:
		return nil, s.remMemReg(m)
	case reqGetConfig:
		return s.getConfig(m)
	case reqSetConfig:
		return nil, s.setConfig(m)
	default:
		return s.handleVring(m)
	}
}

func (s *session) setFeatures(m *message) error {
	f, err := parseU64(m.payload)
	if err != nil {
		return err
	}
	if extra := f &^ (s.dev.Features() | transportFeatures); extra != 0 {
		return fmt.Errorf("%w: acknowledged features %#x that were not offered", ErrFrontend, extra)
	}
	s.features = f
	for _, q := range s.queues {
		q.mu.Lock()
		q.features = f
		q.windows.of = nil
		if f&featureProtocol == 0 {
			q.enabled = true // no SET_VRING_ENABLE will come
		}
		q.mu.Unlock()
	}
	return s.update()
}

func (s *session) setProtocolFeatures(m *message) error {
	f, err := parseU64(m.payload)
	if err != nil {
		return err
	}
	if extra := f &^ protocolFeatures; extra != 0 {
		return fmt.Errorf("%w: acknowledged protocol features %#x that were not offered", ErrFrontend, extra)
	}
	s.protocol = f
	return nil
}

// reset puts the device back to where it was before the first message, but
// for memory and what was negotiated.
func (s *session) reset(m *message) error {
	if err := wantSize(m.payload, 0); err != nil {
		return err
	}
	for _, q := range s.queues {
		s.stop(q)
		q.mu.Lock()
		q.stopped.valid = false
		q.enabled = s.features&featureProtocol == 0 && s.features != 0
		q.mu.Unlock()
	}
	return nil
}

func (s *session) setMemTable(m *message) error {
	regions, err := parseMemTable(m.payload)
	if err != nil {
		return err
	}
	if err := m.wantFDs(len(regions)); err != nil {
		return err
	}
	next := s.empty
	for i, r := range regions {
		more, err := next.with(r, m.fds[i])
		next.close()
		if err != nil {
			return err
		}
		next = more
	}
	return s.setMemory(next)
}

func (s *session) addMemReg(m *message) error {
	r, err := parseMemReg(m.payload)
	if err != nil {
		return err
	}
	if err := m.wantFDs(1); err != nil {
		return err
	}
	if s.memory.regions() >= maxSlots {
		return fmt.Errorf("%w: more than %d memory regions", ErrFrontend, maxSlots)
	}
	next, err := s.memory.with(r, m.fds[0])
	if err != nil {
		return err
	}
	return s.setMemory(next)
}

func (s *session) remMemReg(m *message) error {
	r, err := parseMemReg(m.payload)
	if err != nil {
		return err
	}
	// Some front-ends send the region's descriptor along; it is of no use.
	next, err := s.memory.without(r)
	if err != nil {
		return err
	}
	return s.setMemory(next)
}

// setMemory makes t the guest's memory. No batch uses the previous one when it
// returns. The rings of running queues must be in it.
func (s *session) setMemory(t table) error {
	s.log.Debug("guest memory changed", "regions", t.regions())
	s.memory = t
	s.space.replace(t)
	for _, q := range s.queues {
		if err := q.recheck(); err != nil {
			return err
		}
	}
	return nil
}

func (s *session) getConfig(m *message) ([]byte, error) {
	c, err := parseConfig(m.payload)
	if err != nil {
		return nil, err
	}
	reply := append([]byte(nil), m.payload...)
	data := reply[configHdrSize:]
	clear(data)
	if space := s.dev.Config(); int(c.offset) < len(space) {
		copy(data, space[c.offset:])
	}
	return reply, nil
}

// setConfig ignores the write: no device has a field that a driver may write.
func (s *session) setConfig(m *message) error {
	c, err := parseConfig(m.payload)
	if err == nil {
		s.log.Debug("driver wrote read-only configuration", "offset", c.offset, "size", c.size)
	}
	return err
}
