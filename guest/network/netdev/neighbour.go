package netdev

import (
	"context"
	"encoding/binary"
	"strconv"

	"golang.org/x/sys/unix"

	"kata/guest/fault"
	"kata/guest/network/netlink"
	"kata/lib/fmt"
)

// neighbour is an entry of the table of neighbours.
type neighbour struct {
	addr  Addr
	index int
	mac   MAC
	state uint16 // NUD_…
	flags uint8  // NTF_…
}

// neighbours returns the neighbours of both families.
func (s *session) neighbours() ([]*neighbour, error) {
	// Proxies are a list of their own.
	proxies := families(unix.SizeofNdMsg)
	for _, fixed := range proxies {
		fixed[10] = unix.NTF_PROXY
	}
	return list(s, "neighbours", unix.RTM_GETNEIGH, append(families(unix.SizeofNdMsg), proxies...), parseNeighbour)
}

func parseNeighbour(m *netlink.Message) (*neighbour, error) {
	n := &neighbour{}
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
			n.addr = AddrOf(attrs.Bytes())
		case unix.NDA_LLADDR:
			n.mac = macOf(attrs.Bytes())
		}
	}
	return n, attrs.Err()
}

// find returns the entry in list for the same neighbour, nil if there is none.
//
//go:noinline
func (n *neighbour) find(list []*neighbour) *neighbour {
	for _, other := range list {
		if n.addr == other.addr && n.index == other.index && (n.flags^other.flags)&unix.NTF_PROXY == 0 {
			return other
		}
	}
	return nil
}

func hasNeighbour(list []*neighbour, n *neighbour) bool {
	other := n.find(list)
	return other != nil && *other == *n
}

// lasts reports whether an entry stays as it is: the others change with time.
func (n *neighbour) lasts() bool {
	return n.state == unix.NUD_PERMANENT || n.state == unix.NUD_NOARP || n.flags&unix.NTF_PROXY != 0
}

func (n *neighbour) request(kind, flags uint16) *netlink.Request {
	b := append(make([]byte, 0, 48), n.addr.family(), 0, 0, 0)
	b = binary.NativeEndian.AppendUint32(b, uint32(n.index))
	b = binary.NativeEndian.AppendUint16(b, n.state)
	r := netlink.NewRequest(kind, flags, append(b, n.flags, 0))
	r.Octets(unix.NDA_DST, string(n.addr))
	return r
}

// addNeighbour adds or replaces an entry.
func (s *session) addNeighbour(n *neighbour) error {
	r := n.request(unix.RTM_NEWNEIGH, unix.NLM_F_CREATE|unix.NLM_F_REPLACE)
	if n.mac != "" {
		r.Octets(unix.NDA_LLADDR, string(n.mac))
	}
	return s.conn.Do(r)
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
		links, err := s.links()
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
		for i, entry := range want {
			if entry.lasts() && hasNeighbour(have, entry) {
				continue
			}
			if err := s.addNeighbour(entry); err != nil {
				name := entry.addr.String() + " dev " + list[i].Device
				failed := join(&NeighbourError{i, name, err}, s.undoNeighbours(have, want[:i]))
				return &fault.Error{Kind: kindOf(err), Field: "[" + strconv.Itoa(i) + "]", Cause: failed}
			}
		}
		return nil
	})
}

// undoNeighbours puts the entries back that there were.
func (s *session) undoNeighbours(have, added []*neighbour) (err error) {
	for _, entry := range added {
		var e error
		if old := entry.find(have); old == nil {
			e = s.conn.Do(entry.request(unix.RTM_DELNEIGH, 0))
		} else if old.lasts() {
			e = s.addNeighbour(old)
		}
		if e != nil && !isErrno(e, unix.ENOENT) {
			err = join(err, fmt.Errorf("put neighbour %s back: %w", entry.addr.String(), e))
		}
	}
	return err
}

// resolveNeighbours checks the entries against the devices.
func resolveNeighbours(links []*link, list []Neighbour) ([]*neighbour, error) {
	var entries []*neighbour
	for i := range list {
		want := &list[i]
		l, err := deviceOf(links, i, want.Device)
		if err != nil {
			return nil, err
		}
		entry := &neighbour{addr: want.Addr, index: l.index, mac: want.MAC, state: want.State, flags: want.Flags}
		if entry.state == 0 {
			entry.state = unix.NUD_PERMANENT
		}
		if entry.flags&unix.NTF_PROXY != 0 {
			entry.state, entry.mac = 0, "" // of which proxies have neither
		} else if len(entry.mac) != len(l.mac) {
			reason := "is not an address of " + strconv.Itoa(len(l.mac)) + " bytes as " + l.name + " needs"
			return nil, invalid(nth(i, "lladdr"), want.MAC.String(), reason)
		}
		entries = append(entries, entry)
	}
	return entries, nil
}

// deviceOf returns the device of a list's element.
func deviceOf(links []*link, i int, name string) (*link, error) {
	l := byName(links, name)
	switch {
	case l == nil:
		return nil, invalid(nth(i, "device"), name, "is not a network device")
	case l.loopback():
		return nil, invalid(nth(i, "device"), name, "is the loopback device, which stays as it is")
	}
	return l, nil
}
