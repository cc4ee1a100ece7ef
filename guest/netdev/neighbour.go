package netdev

import (
	"context"
	"encoding/binary"
	"errors"
	"strconv"

	"golang.org/x/sys/unix"

	"kata/api/fmt"
	"kata/guest/netlink"
)

// neighbour is an entry of the table of neighbours.
type neighbour struct {
	addr  Addr
	index int
	mac   string // its bytes
	state uint16 // NUD_…
	flags uint8  // NTF_…
}

// neighbours returns the neighbours of both families.
func (s *session) neighbours() ([]neighbour, error) {
	var list []neighbour
	for _, family := range [...]uint8{unix.AF_INET, unix.AF_INET6} {
		for _, flags := range [...]uint8{0, unix.NTF_PROXY} { // proxies are a list of their own
			fixed := make([]byte, unix.SizeofNdMsg)
			fixed[0], fixed[10] = family, flags
			messages, err := s.conn.Dump(netlink.NewRequest(unix.RTM_GETNEIGH, 0, fixed))
			if err != nil {
				return nil, fmt.Errorf("list neighbours: %w", err)
			}
			for _, m := range messages {
				if m.Type != unix.RTM_NEWNEIGH || len(m.Body) < 1 || m.Body[0] != family {
					continue
				}
				n, err := parseNeighbour(m)
				if err != nil {
					return nil, fmt.Errorf("list neighbours: %w", err)
				}
				list = append(list, n)
			}
		}
	}
	return list, nil
}

func parseNeighbour(m netlink.Message) (neighbour, error) {
	var n neighbour
	attrs := m.Attributes(unix.SizeofNdMsg)
	if attrs.Err() == nil {
		// struct ndmsg
		n.index = int(int32(binary.NativeEndian.Uint32(m.Body[4:])))
		n.state = binary.NativeEndian.Uint16(m.Body[8:])
		n.flags = m.Body[10]
	}
	for attrs.Next() {
		switch attrs.Type() {
		case unix.NDA_DST:
			n.addr, _ = AddrOf(attrs.Bytes())
		case unix.NDA_LLADDR:
			n.mac = string(attrs.Bytes())
		}
	}
	return n, attrs.Err()
}

// same reports whether two entries are for the same neighbour.
func (n neighbour) same(other neighbour) bool {
	return n.addr == other.addr && n.index == other.index && n.flags&unix.NTF_PROXY == other.flags&unix.NTF_PROXY
}

func hasNeighbour(list []neighbour, n neighbour) bool {
	for _, other := range list {
		if n.same(other) && n.mac == other.mac && n.state == other.state && n.flags == other.flags {
			return true
		}
	}
	return false
}

func neighbourRequest(kind, flags uint16, n neighbour) *netlink.Request {
	b := append(make([]byte, 0, 48), n.addr.family(), 0, 0, 0)
	b = binary.NativeEndian.AppendUint32(b, uint32(n.index))
	b = binary.NativeEndian.AppendUint16(b, n.state)
	r := netlink.NewRequest(kind, flags, append(b, n.flags, 0))
	r.Bytes(unix.NDA_DST, n.addr.Bytes())
	return r
}

// addNeighbour adds or replaces an entry.
func (s *session) addNeighbour(n neighbour) error {
	r := neighbourRequest(unix.RTM_NEWNEIGH, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, n)
	if n.mac != "" {
		r.Bytes(unix.NDA_LLADDR, []byte(n.mac))
	}
	return s.conn.Do(r)
}

func (s *session) deleteNeighbour(n neighbour) error {
	return s.conn.Do(neighbourRequest(unix.RTM_DELNEIGH, 0, n))
}

// Neighbour is an entry of the table of neighbours.
type Neighbour struct {
	Addr   Addr
	Device string
	// MAC is the neighbour's; proxies (NTF_PROXY) have none.
	MAC MAC
	// State is a NUD_ value; 0 stands for NUD_PERMANENT.
	State uint16
	Flags uint8 // NTF_…
}

// NeighbourError is the neighbour that could not be set.
type NeighbourError struct {
	Index int // in the list
	Name  string
	Err   error
}

func (e *NeighbourError) Error() string { return fmt.Sprintf("neighbour %s: %v", e.Name, e.Err) }

// Unwrap returns the cause.
func (e *NeighbourError) Unwrap() error { return e.Err }

// AddNeighbours adds neighbours to the tables, in place of other entries for the
// same address. When one cannot be set, none is, and the *NeighbourError says
// which.
func (n *Network) AddNeighbours(ctx context.Context, list []Neighbour) error {
	return n.change(ctx, func(s *session) error {
		links, err := s.links(false)
		if err != nil {
			return err
		}
		want, err := resolveNeighbours(links, list)
		if err != nil {
			return err
		}
		have, err := s.neighbours()
		if err != nil {
			return err
		}
		return s.addNeighbours(have, want, list)
	})
}

func (s *session) addNeighbours(have, want []neighbour, list []Neighbour) error {
	for i, entry := range want {
		if lasts(entry) && hasNeighbour(have, entry) {
			continue
		}
		if err := s.addNeighbour(entry); err != nil {
			name := list[i].Addr.String() + " dev " + list[i].Device
			return errors.Join(&NeighbourError{i, name, err}, s.undoNeighbours(have, want[:i]))
		}
	}
	return nil
}

// lasts reports whether an entry stays as it is: the others change with time.
func lasts(n neighbour) bool {
	return n.state == unix.NUD_PERMANENT || n.state == unix.NUD_NOARP || n.flags&unix.NTF_PROXY != 0
}

// undoNeighbours puts the entries back that there were.
func (s *session) undoNeighbours(have, added []neighbour) error {
	var errs []error
	for _, entry := range added {
		err := error(nil)
		if old := findNeighbour(have, entry); old == nil {
			err = s.deleteNeighbour(entry)
		} else if lasts(*old) && *old != entry {
			err = s.addNeighbour(*old)
		}
		if err != nil && !isErrno(err, unix.ENOENT) {
			errs = append(errs, fmt.Errorf("put neighbour %s back: %w", entry.addr, err))
		}
	}
	return errors.Join(errs...)
}

func findNeighbour(list []neighbour, n neighbour) *neighbour {
	for i := range list {
		if list[i].same(n) {
			return &list[i]
		}
	}
	return nil
}

// resolveNeighbours checks the entries against the devices.
func resolveNeighbours(links []link, list []Neighbour) ([]neighbour, error) {
	entries := make([]neighbour, 0, len(list))
	for i, want := range list {
		l := byName(links, want.Device)
		switch {
		case l == nil:
			return nil, &InvalidError{i, "device", want.Device, "is not a network device"}
		case l.loopback():
			return nil, &InvalidError{i, "device", want.Device, "is the loopback device, which has no neighbours"}
		}
		entry := neighbour{addr: want.Addr, index: l.index, mac: string(want.MAC.bytes()), state: want.State, flags: want.Flags}
		if entry.state == 0 {
			entry.state = unix.NUD_PERMANENT
		}
		if entry.flags&unix.NTF_PROXY != 0 {
			entry.state, entry.mac = 0, "" // of which proxies have neither
		} else if len(entry.mac) != len(l.mac) {
			reason := "is not an address of " + strconv.Itoa(len(l.mac)) + " bytes as " + l.name + " needs"
			return nil, &InvalidError{i, "lladdr", string(want.MAC), reason}
		}
		entries = append(entries, entry)
	}
	return entries, nil
}
