package command

import (
	"cmp"
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
	message   *message.Message
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
		s.noteResult(r, false)
		return nil, err
	}
	for _, p := range a.pairs {
		if err := assigner.Set(p.key, p.value); err != nil {
			s.noteResult(r, false)
			return nil, err
		}
	}
	if !s.cfg.NoDefaults {
		if err := s.setDefaults(r.message, a); err != nil {
			s.noteResult(r, false)
			return nil, err
		}
	}
	return r, nil
}

// decode sets the fields that JSON gives.
func (a *arguments) decode(request *message.Message) error {
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
		if err := request.DecodeJSON(data); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		return nil
	}
	if len(document) == 0 {
		return nil
	}
	return request.DecodeJSON(document)
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
	if id, ok := r.message.String(fieldSandbox); ok {
		if id == "" && !s.cfg.NoDefaults {
			made := s.sandbox == ""
			if made {
				s.sandbox = NewID()
			}
			if err := set(fieldSandbox, s.sandbox, made); err != nil {
				return err
			}
		}
		s.sandbox, _ = r.message.String(fieldSandbox)
	}
	id, ok := r.message.String(fieldContainer)
	if !ok {
		return nil
	}
	if id == "" && !s.cfg.NoDefaults {
		create := r.message.Name() == "CreateContainerRequest"
		if create {
			s.container = NewID()
		}
		if err := set(fieldContainer, s.container, create); err != nil {
			return err
		}
	}
	s.container, _ = r.message.String(fieldContainer)
	exec, _ := r.message.String(fieldExec)
	if r.message.Name() == "ExecProcessRequest" && exec == "" && !s.cfg.NoDefaults {
		const digits = 8
		return set(fieldExec, "exec-"+NewID()[:digits], true)
	}
	return nil
}

// setDefaults sets what a request needs and nobody would want to type.
func (s *Session) setDefaults(request *message.Message, a *arguments) error {
	switch request.Name() {
	case "CreateSandboxRequest":
		return message.Edit(request, func(q *agentpb.CreateSandboxRequest) error {
			if len(q.Storages) == 0 && !a.has("storages") {
				q.Storages = s.cfg.Storages
			}
			return nil
		})
	case "SignalProcessRequest":
		return message.Edit(request, func(q *agentpb.SignalProcessRequest) error {
			if q.Signal == 0 && !a.has("signal") {
				q.Signal = uint32(unix.SIGTERM)
			}
			return nil
		})
	case "ReadStreamRequest":
		return message.Edit(request, func(q *agentpb.ReadStreamRequest) error {
			if q.Len == 0 && !a.has("len") {
				q.Len = defaultRead
			}
			return nil
		})
	case "ListProcessesRequest":
		return message.Edit(request, func(q *agentpb.ListProcessesRequest) error {
			q.Format = cmp.Or(q.Format, "table")
			return nil
		})
	case "CopyFileRequest":
		return message.Edit(request, func(q *agentpb.CopyFileRequest) error { return completeCopy(q, a) })
	}
	return setInventions(request, a)
}

// setInventions sets what a request needs and nobody can know in advance.
func setInventions(request *message.Message, a *arguments) error {
	switch request.Name() {
	case "GuestDetailsRequest":
		return message.Edit(request, func(q *agentpb.GuestDetailsRequest) error {
			if a.none() {
				q.MemBlockSize, q.MemHotplugProbe = true, true
			}
			return nil
		})
	case "ReseedRandomDevRequest":
		return message.Edit(request, func(q *agentpb.ReseedRandomDevRequest) error {
			if len(q.Data) == 0 && !a.has("data") {
				q.Data = make([]byte, defaultEntropy)
				_, _ = rand.Read(q.Data) // never fails (crypto/rand)
			}
			return nil
		})
	case "SetGuestDateTimeRequest":
		return message.Edit(request, func(q *agentpb.SetGuestDateTimeRequest) error {
			if a.none() {
				now := time.Now()
				q.Sec, q.Usec = now.Unix(), int64(now.Nanosecond()/1000)
			}
			return nil
		})
	}
	return nil
}

// completeCopy makes the whole of a file out of data alone.
func completeCopy(q *agentpb.CopyFileRequest, a *arguments) error {
	if q.FileSize == 0 && !a.has("file_size") && q.Offset == 0 {
		q.FileSize = int64(len(q.Data))
	}
	if q.FileMode == 0 && !a.has("file_mode") {
		q.FileMode = defaultFileMode
	}
	if q.DirMode == 0 && !a.has("dir_mode") {
		q.DirMode = defaultDirMode
	}
	return nil
}

// ids returns the ids that the request names.
func (r *request) ids() []pair {
	var ids []pair
	for _, field := range []string{fieldSandbox, fieldContainer, fieldExec} {
		if id, _ := r.message.String(field); id != "" {
			ids = append(ids, pair{field, id})
		}
	}
	return ids
}
