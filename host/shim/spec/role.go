package spec

import "fmt"

// Role says what a container is within its pod.
type Role struct {
	// Sandbox is the id of the pod's sandbox when the container belongs to the
	// pod of another; empty when it is, or makes, a pod of its own.
	Sandbox string
	// Managed is set when a pod manager said so by annotation. A manager keeps
	// its containers across its own restarts, and reopens their stdin.
	Managed bool
}

// managers are the annotations by which pod managers tell a container's role.
var managers = [...]struct{ kind, sandbox, container, id string }{
	{"io.kubernetes.cri.container-type", "sandbox", "container", "io.kubernetes.cri.sandbox-id"},   // containerd's CRI
	{"io.kubernetes.cri-o.ContainerType", "sandbox", "container", "io.kubernetes.cri-o.SandboxID"}, // CRI-O
	{"io.kubernetes.docker.type", "podsandbox", "container", "io.kubernetes.sandbox.id"},           // dockershim
}

// RoleOf reads the role from the annotations. A container without any of them
// is a pod of one. Annotations of two managers must agree, on what the container
// is and on the sandbox: a manager passes on what a pod's author wrote, under the
// names of all others too.
func RoleOf(annotations map[string]string) (Role, error) {
	var role Role
	var by string // the annotation that told the role
	for _, m := range managers {
		kind, ok := annotations[m.kind]
		if !ok {
			continue
		}
		r := Role{Managed: true}
		switch kind {
		case m.sandbox:
		case m.container:
			if r.Sandbox = annotations[m.id]; r.Sandbox == "" {
				return Role{}, fmt.Errorf("annotation %s is %q, and %s, which names its sandbox, is missing", m.kind, kind, m.id)
			}
		default:
			return Role{}, fmt.Errorf("annotation %s is %q, neither %q nor %q", m.kind, kind, m.sandbox, m.container)
		}
		if by != "" && (r.Sandbox == "") != (role.Sandbox == "") {
			return Role{}, fmt.Errorf("annotations %s (%q) and %s (%q) disagree on what the container is", by, annotations[by], m.kind, kind)
		}
		if by == "" {
			role, by = r, m.kind
		}
	}
	if by == "" {
		return Role{}, nil
	}
	if err := agreeOnSandbox(annotations); err != nil {
		return Role{}, err
	}
	return role, nil
}

// agreeOnSandbox compares the sandbox ids that are there, those of a manager that
// did not tell a role included.
func agreeOnSandbox(annotations map[string]string) error {
	var by string
	for _, m := range managers {
		id, ok := annotations[m.id]
		if !ok {
			continue
		}
		if by != "" && annotations[by] != id {
			return fmt.Errorf("annotations %s (%q) and %s (%q) disagree on the sandbox", by, annotations[by], m.id, id)
		}
		by = m.id
	}
	return nil
}
