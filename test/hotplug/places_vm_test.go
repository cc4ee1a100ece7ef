//go:build vm

package hotplug

// Places of devices that the driver plugs, in the order in which it fills them.
const (
	place0 = "03/00"
	place1 = "03.1/00"
	place2 = "03.2/00"
)
