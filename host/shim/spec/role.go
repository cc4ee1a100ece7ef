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
// is a pod of one.
func RoleOf(annotations map[string]string) (Role, error) {
	for _, m := range managers {
		kind, ok := annotations[m.kind]
		if !ok {
			continue
		}
		switch kind {
		case m.sandbox:
			return Role{Managed: true}, nil
		case m.container:
			id := annotations[m.id]
			if id == "" {
				return Role{}, fmt.Errorf("annotation %s is %q, and %s, which names its sandbox, is missing", m.kind, kind, m.id)
			}
			return Role{Sandbox: id, Managed: true}, nil
		default:
			return Role{}, fmt.Errorf("annotation %s is %q, neither %q nor %q", m.kind, kind, m.sandbox, m.container)
		}
	}
	return Role{}, nil
}
