package storage

import "golang.org/x/sys/unix"

// LetGo makes the guest forget what it knows of files in shared folders and does
// not use. Their server on the host keeps a file open as long as the guest
// remembers its name, also one of a container that has been removed; then the
// host cannot unmount it. It is to be called when a container has gone.
//
// Where the server announces mounts, folders below are file systems of their own,
// and other containers' files stay known; ours does not (host/share).
func (m *Manager) LetGo() {
	var points []string
	m.mu.Lock()
	for _, entry := range m.mounted {
		if entry.job.Driver == "virtio-fs" {
			points = append(points, entry.point)
		}
	}
	m.mu.Unlock()
	for _, point := range points {
		// A reconfiguration that changes nothing drops the unused names
		// (reconfigure_super of fs/super.c). One that is not possible, of a
		// folder that has just been unmounted say, does no harm.
		if fd, err := unix.Fspick(unix.AT_FDCWD, point, unix.FSPICK_CLOEXEC|unix.FSPICK_SYMLINK_NOFOLLOW); err == nil {
			_ = unix.FsconfigReconfigure(fd)
			unix.Close(fd)
		}
	}
}
