package command

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"kata/api/agentpb"
	"kata/cli/agentctl/message"
)

// Defaults of requests that do not say otherwise.
const (
	defaultRead     = 64 << 10 // bytes asked of ReadStdout
	defaultEntropy  = 512      // bytes for ReseedRandomDev, as the runtime sends
	defaultFileMode = unix.S_IFREG | 0o644
	defaultDirMode  = 0o755
)

// request is a request that is ready to be sent.
type request struct {
	message   any
	generated []pair // ids that nobody gave
	shared    string // container whose files were shared for it
}

// NewID returns a random name for a container or a pod: 64 hexadecimal digits.
func NewID() string {
	const size = 32
	data := make([]byte, size)
	_, _ = rand.Read(data) // never fails (crypto/rand)
	return hex.EncodeToString(data)
}

// build makes the request of a call: what JSON says, then ids, then what comes
// from a spec, then the other pairs, then defaults.
func (s *Session) build(m *method, a *arguments) (*request, error) {
	r := &request{message: m.newRequest()}
	if err := a.decode(r.message); err != nil {
		return nil, err
	}
	assigner := message.NewAssigner(r.message, readFile)
	for _, p := range a.pairs {
		if p.key == fieldContainer || p.key == fieldSandbox || p.key == fieldExec {
			if err := assigner.Set(p.key, p.value); err != nil {
				return nil, err
			}
		}
	}
	if err := s.identify(r, a, assigner); err != nil {
		return nil, err
	}
	if err := s.applySpec(r, a); err != nil {
		s.settle(r, false)
		return nil, err
	}
	for _, p := range a.pairs {
		if err := assigner.Set(p.key, p.value); err != nil {
			s.settle(r, false)
			return nil, err
		}
	}
	if !s.cfg.NoDefaults {
		s.setDefaults(r.message, a)
	}
	return r, nil
}

// decode sets the fields that JSON gives.
func (a *arguments) decode(request any) error {
	document := []byte(a.document)
	if a.file != "" {
		path := a.file
		if strings.Contains(path, "://") {
			var err error
			if path, err = message.FilePath(path); err != nil {
				return err
			}
		}
		data, err := readFile(path)
		if err != nil {
			return fmt.Errorf("read the request: %w", err)
		}
		if err := message.DecodeJSON(data, request); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		return nil
	}
	if len(document) == 0 {
		return nil
	}
	return message.DecodeJSON(document, request)
}

// identify sets the ids that the command line leaves out, and remembers those
// that it gives.
func (s *Session) identify(r *request, a *arguments, assigner *message.Assigner) error {
	if a.sandbox != "" {
		s.sandbox = a.sandbox
	}
	set := func(field, value string, made bool) error {
		if value == "" {
			return nil
		}
		if made {
			r.generated = append(r.generated, pair{field, value})
		}
		return assigner.Set(field, value)
	}
	if q, ok := r.message.(interface{ GetSandboxId() string }); ok {
		if q.GetSandboxId() == "" && !s.cfg.NoDefaults {
			made := s.sandbox == ""
			if made {
				s.sandbox = NewID()
			}
			if err := set(fieldSandbox, s.sandbox, made); err != nil {
				return err
			}
		}
		s.sandbox = q.GetSandboxId()
	}
	q, ok := r.message.(interface{ GetContainerId() string })
	if !ok {
		return nil
	}
	if q.GetContainerId() == "" && !s.cfg.NoDefaults {
		_, create := r.message.(*agentpb.CreateContainerRequest)
		if create {
			s.container = NewID()
		}
		if err := set(fieldContainer, s.container, create); err != nil {
			return err
		}
	}
	s.container = q.GetContainerId()
	if q, ok := r.message.(*agentpb.ExecProcessRequest); ok && q.ExecId == "" && !s.cfg.NoDefaults {
		const digits = 8
		return set(fieldExec, "exec-"+NewID()[:digits], true)
	}
	return nil
}

// setDefaults sets what a request needs and nobody would want to type.
func (s *Session) setDefaults(request any, a *arguments) {
	switch q := request.(type) {
	case *agentpb.CreateSandboxRequest:
		if len(q.Storages) == 0 && !a.has("storages") {
			q.Storages = s.cfg.Storages
		}
	case *agentpb.SignalProcessRequest:
		if q.Signal == 0 && !a.has("signal") {
			q.Signal = uint32(unix.SIGTERM)
		}
	case *agentpb.ReadStreamRequest:
		if q.Len == 0 && !a.has("len") {
			q.Len = defaultRead
		}
	case *agentpb.ListProcessesRequest:
		if q.Format == "" {
			q.Format = "table"
		}
	case *agentpb.GuestDetailsRequest:
		if a.none() {
			q.MemBlockSize, q.MemHotplugProbe = true, true
		}
	case *agentpb.ReseedRandomDevRequest:
		if len(q.Data) == 0 && !a.has("data") {
			q.Data = make([]byte, defaultEntropy)
			_, _ = rand.Read(q.Data) // never fails (crypto/rand)
		}
	case *agentpb.SetGuestDateTimeRequest:
		if a.none() {
			now := time.Now()
			q.Sec, q.Usec = now.Unix(), int64(now.Nanosecond()/1000)
		}
	case *agentpb.CopyFileRequest:
		s.completeCopy(q, a)
	}
}

// completeCopy makes the whole of a file out of data alone.
func (s *Session) completeCopy(q *agentpb.CopyFileRequest, a *arguments) {
	if q.FileSize == 0 && !a.has("file_size") && q.Offset == 0 {
		q.FileSize = int64(len(q.Data))
	}
	if q.FileMode == 0 && !a.has("file_mode") {
		q.FileMode = defaultFileMode
	}
	if q.DirMode == 0 && !a.has("dir_mode") {
		q.DirMode = defaultDirMode
	}
}

// ids returns the ids that the request names.
func (r *request) ids() []pair {
	var ids []pair
	add := func(key, value string) {
		if value != "" {
			ids = append(ids, pair{key, value})
		}
	}
	if q, ok := r.message.(interface{ GetSandboxId() string }); ok {
		add(fieldSandbox, q.GetSandboxId())
	}
	if q, ok := r.message.(interface{ GetContainerId() string }); ok {
		add(fieldContainer, q.GetContainerId())
	}
	if q, ok := r.message.(interface{ GetExecId() string }); ok {
		add(fieldExec, q.GetExecId())
	}
	return ids
}
