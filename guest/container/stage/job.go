package stage

import (
	"encoding/binary"
	"errors"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"kata/api/ocipb"
	"kata/guest/container/rootfs"
	"kata/guest/storage/mount"
	"kata/lib/fmt"
)

// Job is what a stage is told to do.
type Job struct {
	Spec *ocipb.Spec
	// Names of the user, where the spec has only numbers; see [Names].
	Names Names
	// Born says that the stage was started in the namespaces that the spec
	// joins by path, in its time namespace, and as the root of its user
	// namespace, and that the runtime does what takes rights outside of that.
	Born bool
	// Privileged says that the runtime sets, when the stage is Ready, what
	// takes rights outside of its user namespace.
	Privileged bool
	// Trees are the places (see rootfs.Trees) of the trees that are sent after
	// the job, in the same order.
	Trees []int
}

// Names are a user, a group and further groups to look up in the container's
// /etc/passwd and /etc/group; numbers stand for themselves. Empty ones leave
// what the spec has.
type Names struct {
	User, Group string
	Groups      []string
}

// Marshal returns the runtime's first message: twice four bytes of length,
// little endian, each followed by that many bytes. The first are the
// marshalled spec, the second the rest, words with a zero byte after each.
func (j *Job) Marshal() ([]byte, error) {
	data, err := j.Spec.MarshalVT()
	if err != nil {
		return nil, err
	}
	words := append([]string{strconv.FormatBool(j.Born), strconv.FormatBool(j.Privileged), j.Names.User, j.Names.Group}, j.Names.Groups...)
	words = append(words, "") // the end of the groups, which are not empty
	for _, place := range j.Trees {
		words = append(words, strconv.Itoa(place))
	}
	rest := strings.Join(words, "\x00") + "\x00"
	if size := len(data) + len(rest); size > maxConfig {
		return nil, fmt.Errorf("the spec has %d bytes; at most %d are possible", size, maxConfig)
	}
	b := append(binary.LittleEndian.AppendUint32(nil, uint32(len(data))), data...)
	return append(binary.LittleEndian.AppendUint32(b, uint32(len(rest))), rest...), nil
}

func (j *Job) unmarshalRest(rest string) error {
	words := strings.Split(strings.TrimSuffix(rest, "\x00"), "\x00")
	if len(words) < 5 {
		return errors.New("it is too short")
	}
	j.Born, j.Privileged = words[0] == "true", words[1] == "true"
	j.Names.User, j.Names.Group = words[2], words[3]
	words = words[4:]
	for len(words) > 0 && words[0] != "" {
		j.Names.Groups = append(j.Names.Groups, words[0])
		words = words[1:]
	}
	for _, word := range words[min(1, len(words)):] {
		place, err := strconv.Atoi(word)
		if err != nil {
			return err
		}
		j.Trees = append(j.Trees, place)
	}
	return nil
}

func (c conn) job() (*Job, error) {
	data, err := c.part()
	if err != nil {
		return nil, err
	}
	rest, err := c.part()
	if err != nil {
		return nil, err
	}
	j := &Job{Spec: &ocipb.Spec{}}
	if err := j.Spec.UnmarshalVT(data); err != nil {
		return nil, err
	}
	if j.Spec.Process == nil {
		return nil, errors.New("it has no process")
	}
	return j, j.unmarshalRest(string(rest))
}

func (c conn) part() ([]byte, error) {
	var length [4]byte
	if err := c.read(length[:]); err != nil {
		return nil, err
	}
	n := binary.LittleEndian.Uint32(length[:])
	if n > maxConfig {
		return nil, errors.New("it is too long")
	}
	data := make([]byte, n)
	return data, c.read(data)
}

// MaxDescriptors is how many descriptors come with one byte at most, in the
// trees' messages: fewer than the kernel's SCM_MAX_FD.
const MaxDescriptors = 200

// trees receives the trees of a job.
func (c conn) trees(places []int) (rootfs.Trees, error) {
	t := make(rootfs.Trees, len(places))
	oob := make([]byte, unix.CmsgSpace(4*MaxDescriptors))
	for len(places) > 0 {
		var b [1]byte
		n, oobn, _, _, err := unix.Recvmsg(int(c), b[:], oob, unix.MSG_CMSG_CLOEXEC)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return nil, err
		}
		var fds []int
		if messages, err := unix.ParseSocketControlMessage(oob[:oobn]); err == nil && len(messages) > 0 {
			fds, _ = unix.ParseUnixRights(&messages[0]) // an error leaves none
		}
		if n == 0 || len(fds) == 0 || len(fds) > len(places) {
			return nil, errors.New("the runtime sent no descriptors")
		}
		for i, fd := range fds {
			t[places[i]] = mount.Hold(fd)
		}
		places = places[len(fds):]
	}
	return t, nil
}
