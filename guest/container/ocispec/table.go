package ocispec

// table are names and what they are to the kernel. A map would take ten times as
// much of the agent's binary.
type table []struct {
	name   string
	number uint32
}

// find returns the number of a name.
func (t table) find(name string) (number uint32, ok bool) {
	for i := range t {
		if t[i].name == name {
			return t[i].number, true
		}
	}
	return 0, false
}
