package stage

import (
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"kata/guest/container/plan"
	"kata/lib/fmt"
)

// resolve puts what names say in the place of the numbers of u. A user by name
// brings the groups that it is a member of, one by number only its own group,
// as in login(1) and in other runtimes.
func resolve(n *plan.Names, u plan.User) (plan.User, error) {
	if n.User == "" && n.Group == "" && len(n.Groups) == 0 {
		return u, nil
	}
	if err := resolveUser(n, &u); err != nil {
		return u, err
	}
	group := readContainerFile("/etc/group")
	if n.Group != "" {
		gid, err := lookUp(group, "group", n.Group)
		if err != nil {
			return u, err
		}
		u.GID = gid
	}
	for _, name := range n.Groups {
		gid, err := lookUp(group, "group", name)
		if err != nil {
			return u, err
		}
		addGroup(&u, gid)
	}
	return u, nil
}

func addGroup(u *plan.User, gid uint32) {
	if !slices.Contains(u.Groups, gid) {
		u.Groups = append(u.Groups, gid)
	}
}

func resolveUser(n *plan.Names, u *plan.User) error {
	if n.User == "" {
		return nil
	}
	passwd := readContainerFile("/etc/passwd")
	uid, err := lookUp(passwd, "user", n.User)
	if err != nil {
		return err
	}
	u.UID = uid
	name := ""
	for fields := range entries(passwd, 4) {
		if id, ok := number(fields[2]); ok && id == uid {
			if gid, ok := number(fields[3]); ok {
				u.GID = gid
			}
			name = fields[0]
			break
		}
	}
	if _, isNumber := number(n.User); isNumber || len(n.Groups) > 0 {
		return nil
	}
	for fields := range entries(readContainerFile("/etc/group"), 4) {
		gid, ok := number(fields[2])
		if ok && slices.Contains(strings.Split(fields[3], ","), name) {
			addGroup(u, gid)
		}
	}
	return nil
}

// lookUp returns the number of a user or group in the text of its file.
func lookUp(text, kind, name string) (uint32, error) {
	for fields := range entries(text, 3) {
		if fields[0] == name {
			if id, ok := number(fields[2]); ok {
				return id, nil
			}
		}
	}
	if id, ok := number(name); ok {
		return id, nil
	}
	return 0, refusedError{fmt.Errorf("string_user: the container has no %s %q", kind, name)}
}

// entries are the lines of a file like passwd(5) with that many fields or more.
func entries(text string, least int) func(yield func([]string) bool) {
	return func(yield func([]string) bool) {
		for line := range strings.Lines(text) {
			fields := strings.Split(strings.TrimSpace(line), ":")
			if len(fields) >= least && fields[0] != "" && !yield(fields) {
				return
			}
		}
	}
}

// number is a user or group by number; the largest stands for none in the
// kernel.
func number(s string) (uint32, bool) {
	id, err := strconv.ParseUint(s, 10, 32)
	return uint32(id), err == nil && id < 1<<32-1
}

// maxPasswd bounds what is read of a container's /etc/passwd and /etc/group.
const maxPasswd = 1 << 20

// readContainerFile returns the start of a file of the container, which may be
// anything; what is no file is empty.
func readContainerFile(name string) string {
	fd, err := unix.Open(name, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return ""
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFREG {
		return ""
	}
	data := make([]byte, min(max(st.Size, 0), maxPasswd))
	n := 0
	for n < len(data) {
		m, err := unix.Read(fd, data[n:])
		if err != nil || m == 0 {
			break
		}
		n += m
	}
	return string(data[:n])
}

// home returns the home directory that the container's passwd file has for a
// user, or "/".
func home(uid uint32) string { return homeIn(readContainerFile("/etc/passwd"), uid) }

func homeIn(passwd string, uid uint32) string {
	for fields := range entries(passwd, 6) {
		if id, ok := number(fields[2]); ok && id == uid && fields[5] != "" {
			return fields[5]
		}
	}
	return "/"
}
