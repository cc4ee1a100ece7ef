package command

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"

	"kata/api/agentpb"
	"kata/api/ocipb"
	"kata/cli/agentctl/message"
	"kata/host/sandbox/guestspec"
)

// applySpec sets what a request takes from an OCI config.json.
func (s *Session) applySpec(r *request, a *arguments) error {
	switch r.message.Name() {
	case "CreateContainerRequest":
		return message.Edit(r.message, func(q *agentpb.CreateContainerRequest) error { return s.createFromSpec(r, q, a) })
	case "ExecProcessRequest":
		return message.Edit(r.message, func(q *agentpb.ExecProcessRequest) error { return s.execFromSpec(q, a) })
	case "UpdateContainerRequest":
		if a.spec == "" {
			return nil
		}
		return message.Edit(r.message, func(q *agentpb.UpdateContainerRequest) error { return s.updateFromSpec(q, a) })
	}
	return nil
}

func (s *Session) updateFromSpec(q *agentpb.UpdateContainerRequest, a *arguments) error {
	spec, _, err := s.loadSpec(a)
	if err != nil {
		return err
	}
	if spec.Linux == nil || spec.Linux.Resources == nil {
		return fmt.Errorf("%s has no linux.resources", a.spec)
	}
	q.Resources, err = guestspec.ConvertResources(spec.Linux.Resources)
	return err
}

// createFromSpec fills in the container that a bundle describes.
func (s *Session) createFromSpec(r *request, q *agentpb.CreateContainerRequest, a *arguments) error {
	// With fields of OCI given and no bundle, they are all there is.
	given := q.OCI != nil || a.has("OCI") && s.cfg.BundleDir == ""
	if a.spec != "" || !given {
		if err := s.convert(r, q, a); err != nil {
			return err
		}
	}
	if len(a.args) > 0 {
		if q.OCI == nil {
			q.OCI = &ocipb.Spec{}
		}
		if q.OCI.Process == nil {
			q.OCI.Process = minimalProcess()
		}
		q.OCI.Process.Args = a.args
	}
	return nil
}

func (s *Session) convert(r *request, q *agentpb.CreateContainerRequest, a *arguments) error {
	spec, bundle, err := s.loadSpec(a)
	if err != nil {
		return err
	}
	if spec.Root == nil || spec.Root.Path == "" {
		return errors.New("spec: root.path is missing")
	}
	rootfs := spec.Root.Path
	if !filepath.IsAbs(rootfs) {
		rootfs = filepath.Join(bundle, rootfs)
	}
	if s.cfg.Share != nil {
		// What is there already belongs to a container of that name.
		if rootfs, _, err = s.cfg.Share.AddRootfs(q.ContainerId, rootfs, spec.Root.Readonly); err != nil {
			return err
		}
		r.shared = q.ContainerId
	}
	out, err := guestspec.Convert(spec, guestspec.Options{Rootfs: rootfs, GuestHooks: true})
	if err != nil {
		return err
	}
	for i, bind := range out.Binds {
		bind.Mount.Source = bind.Source
		if s.cfg.Share == nil {
			continue
		}
		if bind.Mount.Source, _, err = s.cfg.Share.AddBind(q.ContainerId, i, bind.Source, bind.Readonly, bind.Recursive); err != nil {
			return err
		}
	}
	if len(out.Ignored) > 0 {
		s.cfg.Log.Warn("parts of the spec have no effect", "parts", out.Ignored)
	}
	q.OCI, q.SandboxPidns = out.OCI, q.SandboxPidns || out.SandboxPidns
	return nil
}

// execFromSpec fills in a process: a spec's, or what the container's own would
// be with other arguments.
func (s *Session) execFromSpec(q *agentpb.ExecProcessRequest, a *arguments) error {
	if a.spec != "" {
		spec, _, err := s.loadSpec(a)
		if err != nil {
			return err
		}
		if spec.Process == nil {
			return fmt.Errorf("%s has no process", a.spec)
		}
		if q.Process, err = guestspec.ConvertProcess(spec.Process); err != nil {
			return err
		}
	}
	if len(a.args) == 0 {
		return nil
	}
	if q.Process == nil {
		q.Process = s.processLike(q.ContainerId)
	}
	q.Process.Args = a.args
	return nil
}

// processLike returns a process that runs as the container's own does, without
// its terminal.
func (s *Session) processLike(container string) *ocipb.Process {
	own, ok := s.processes[container]
	if !ok {
		return minimalProcess()
	}
	p := minimalProcess()
	p.User, p.Env, p.Cwd = own.User, slices.Clone(own.Env), own.Cwd
	p.Capabilities, p.Rlimits, p.NoNewPrivileges = own.Capabilities, own.Rlimits, own.NoNewPrivileges
	return p
}

// minimalProcess is a process about which nothing is said: root, without
// capabilities.
func minimalProcess() *ocipb.Process {
	return &ocipb.Process{
		Cwd: "/", User: &ocipb.User{},
		Env: []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
	}
}

// loadSpec reads the spec that the command names, or that of the bundle, and
// tells where relative paths in it begin.
func (s *Session) loadSpec(a *arguments) (spec *specs.Spec, bundle string, err error) {
	bundle = s.cfg.BundleDir
	path := filepath.Join(bundle, "config.json")
	switch {
	case a.spec != "":
		if path, err = specPath(a.spec); err != nil {
			return nil, "", err
		}
		if bundle == "" {
			bundle = filepath.Dir(path)
		}
	case bundle == "":
		return nil, "", errors.New("there is no spec: name one with spec=file:///…/config.json or --bundle-dir, or give OCI=")
	}
	if bundle, err = filepath.Abs(bundle); err != nil {
		return nil, "", err
	}
	data, err := readFile(path)
	if err != nil {
		return nil, "", fmt.Errorf("read the spec: %w", err)
	}
	spec = &specs.Spec{}
	if err := json.Unmarshal(data, spec); err != nil {
		return nil, "", fmt.Errorf("spec %s: %w", path, err)
	}
	return spec, bundle, nil
}

// noteResult remembers the process of a container that was created, and drops what was
// shared or remembered for one that is not there, be it that it was not created or
// that it was removed.
func (s *Session) noteResult(r *request, ok bool) {
	container := r.shared
	switch r.message.Name() {
	case "RemoveContainerRequest":
		container, _ = r.message.String(fieldContainer)
	case "CreateContainerRequest":
		if ok {
			s.remember(r.message)
		}
		ok = !ok
	default:
		ok = !ok
	}
	if container == "" || !ok {
		return
	}
	delete(s.processes, container)
	if s.cfg.Share == nil {
		return
	}
	if err := s.cfg.Share.RemoveContainer(container); err != nil && !errors.Is(err, fs.ErrNotExist) {
		s.cfg.Log.Warn("stop sharing the container's files", "container", container, "error", err)
	}
}

// remember keeps the process of a container that was created.
func (s *Session) remember(request *message.Message) {
	err := message.Edit(request, func(q *agentpb.CreateContainerRequest) error {
		if q.OCI != nil && q.OCI.Process != nil {
			s.processes[q.ContainerId] = q.OCI.Process
		}
		return nil
	})
	if err != nil {
		s.cfg.Log.Warn("remember the container's process", "error", err)
	}
}
