package mount

import (
	"strings"

	"golang.org/x/sys/unix"

	"kata/lib/fmt"
)

// Options are mount options in the form the kernel takes them. The zero value
// is no options. See [Parse].
type Options struct {
	// Bind is set by "bind" and "rbind", Recursive by the latter.
	Bind, Recursive bool
	// CopyUp is set by "tmpcopyup": a tmpfs starts with what it covers.
	CopyUp bool
	// IDMap is set by "idmap" and "ridmap", IDMapRecursive by the latter.
	IDMap, IDMapRecursive bool
	// Attr applies to the one mount, AttrRec to all mounts of the tree.
	Attr, AttrRec Attr
	// Propagation holds MS_PRIVATE and its kind in the order given, together
	// with MS_REC for the recursive ones.
	Propagation []uint64
	// Data is what only the file system understands.
	Data []Param
}

// Attr changes the attributes of a mount (MOUNT_ATTR_*). A bit is in one of
// the two at most, except for the access-time field, which is replaced as a
// whole (mount_setattr(2)).
type Attr struct {
	Set, Clear uint64
}

// Then returns the change that a and then b make.
func (a Attr) Then(b Attr) Attr {
	if b.Clear&unix.MOUNT_ATTR__ATIME != 0 {
		a.Set &^= unix.MOUNT_ATTR__ATIME
	}
	return Attr{Set: a.Set&^b.Clear | b.Set, Clear: a.Clear&^b.Set | b.Clear}
}

// Empty reports whether a changes nothing.
func (a Attr) Empty() bool { return a == Attr{} }

// Readonly reports whether a makes a mount read-only.
func (a Attr) Readonly() bool { return a.Set&unix.MOUNT_ATTR_RDONLY != 0 }

func (a *Attr) add(c attrChange) {
	if c.bits&^unix.MOUNT_ATTR__ATIME == 0 && c.field {
		a.Set = a.Set&^unix.MOUNT_ATTR__ATIME | c.bits
		a.Clear |= unix.MOUNT_ATTR__ATIME
		return
	}
	if c.clear {
		a.Set &^= c.bits
		a.Clear |= c.bits
		return
	}
	a.Set |= c.bits
	a.Clear &^= c.bits
}

// Param is one parameter of a file system; Flag ones have no value.
type Param struct {
	Key, Value string
	Flag       bool
}

func (p Param) String() string {
	if p.Flag {
		return p.Key
	}
	return p.Key + "=" + p.Value
}

type attrChange struct {
	bits  uint64
	clear bool
	field bool // bits are a value of the access-time field
}

// attrOptions has each option's effect; with an "r" before it, the effect is
// on all mounts of the tree (OCI runtime specification, "Linux mount options").
var attrOptions = map[string]attrChange{
	"ro":            {bits: unix.MOUNT_ATTR_RDONLY},
	"rw":            {bits: unix.MOUNT_ATTR_RDONLY, clear: true},
	"nosuid":        {bits: unix.MOUNT_ATTR_NOSUID},
	"suid":          {bits: unix.MOUNT_ATTR_NOSUID, clear: true},
	"nodev":         {bits: unix.MOUNT_ATTR_NODEV},
	"dev":           {bits: unix.MOUNT_ATTR_NODEV, clear: true},
	"noexec":        {bits: unix.MOUNT_ATTR_NOEXEC},
	"exec":          {bits: unix.MOUNT_ATTR_NOEXEC, clear: true},
	"nodiratime":    {bits: unix.MOUNT_ATTR_NODIRATIME},
	"diratime":      {bits: unix.MOUNT_ATTR_NODIRATIME, clear: true},
	"nosymfollow":   {bits: unix.MOUNT_ATTR_NOSYMFOLLOW},
	"symfollow":     {bits: unix.MOUNT_ATTR_NOSYMFOLLOW, clear: true},
	"noatime":       {bits: unix.MOUNT_ATTR_NOATIME, field: true},
	"strictatime":   {bits: unix.MOUNT_ATTR_STRICTATIME, field: true},
	"relatime":      {bits: unix.MOUNT_ATTR_RELATIME, field: true},
	"atime":         {bits: unix.MOUNT_ATTR_RELATIME, field: true},
	"norelatime":    {bits: unix.MOUNT_ATTR_STRICTATIME, field: true},
	"nostrictatime": {bits: unix.MOUNT_ATTR_RELATIME, field: true},
}

var propagationOptions = map[string]uint64{
	"private":     unix.MS_PRIVATE,
	"slave":       unix.MS_SLAVE,
	"shared":      unix.MS_SHARED,
	"unbindable":  unix.MS_UNBINDABLE,
	"rprivate":    unix.MS_PRIVATE | unix.MS_REC,
	"rslave":      unix.MS_SLAVE | unix.MS_REC,
	"rshared":     unix.MS_SHARED | unix.MS_REC,
	"runbindable": unix.MS_UNBINDABLE | unix.MS_REC,
}

// ignoredOptions mean nothing here: they are the default, or advice for
// mount(8) and older kernels that fsconfig(2) has no parameter for.
var ignoredOptions = map[string]bool{
	"": true, "defaults": true, "remount": true, "silent": true, "loud": true,
	"iversion": true, "noiversion": true, "acl": true, "noacl": true,
	"auto": true, "noauto": true, "user": true, "nouser": true, "_netdev": true, "nofail": true,
}

// Parse sorts options, in the form of the OCI runtime specification and of
// mount(8). Later options win over earlier ones. What is no option of every
// mount is a parameter for the file system, which refuses it if it does not
// know it.
func Parse(options []string) (Options, error) {
	var o Options
	for _, option := range options {
		if err := o.add(option); err != nil {
			return Options{}, err
		}
	}
	return o, nil
}

func (o *Options) add(option string) error {
	if strings.IndexByte(option, 0) >= 0 {
		return fmt.Errorf("mount option %q holds a zero byte", option)
	}
	switch option {
	case "bind":
		o.Bind = true
		return nil
	case "rbind":
		o.Bind, o.Recursive = true, true
		return nil
	case "tmpcopyup":
		o.CopyUp = true
		return nil
	case "idmap", "ridmap":
		o.IDMap, o.IDMapRecursive = true, option == "ridmap"
		return nil
	}
	if ignoredOptions[option] {
		return nil
	}
	if c, ok := attrOptions[option]; ok {
		o.Attr.add(c)
		return nil
	}
	if propagation, ok := propagationOptions[option]; ok {
		o.Propagation = append(o.Propagation, propagation)
		return nil
	}
	if c, ok := attrOptions[strings.TrimPrefix(option, "r")]; ok && option[0] == 'r' {
		o.AttrRec.add(c)
		return nil
	}
	key, value, hasValue := strings.Cut(option, "=")
	o.Data = append(o.Data, Param{Key: key, Value: value, Flag: !hasValue})
	return nil
}

// HasData reports whether the file system gets a parameter called key.
func (o *Options) HasData(key string) bool {
	for _, p := range o.Data {
		if p.Key == key {
			return true
		}
	}
	return false
}

// ParsePropagation returns the MS_* flags of a propagation such as "rslave".
func ParsePropagation(name string) (uint64, error) {
	flags, ok := propagationOptions[name]
	if !ok {
		return 0, fmt.Errorf("unknown mount propagation %q", name)
	}
	return flags, nil
}
