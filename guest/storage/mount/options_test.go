package mount

import (
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// Every option that runc knows (libcontainer/specconv, Mount options of runc
// features) is understood, and what is one of every mount does not reach the
// file system as a parameter of its own.
func TestEveryOptionOfRunc(t *testing.T) {
	const options = "async atime bind defaults dev diratime dirsync exec iversion lazytime loud mand noatime nodev nodiratime " +
		"noexec noiversion nolazytime nomand norelatime nostrictatime nosuid nosymfollow rbind relatime remount ro rw silent " +
		"strictatime suid symfollow sync private shared slave unbindable rprivate rshared rslave runbindable " +
		"ratime rdev rdiratime rexec rnoatime rnodev rnodiratime rnoexec rnorelatime rnostrictatime rnosuid rnosymfollow " +
		"rrelatime rro rrw rstrictatime rsuid rsymfollow tmpcopyup idmap ridmap"
	// The kernel takes these of every file system (fs/fs_context.c).
	const superblock = " async dirsync lazytime mand nolazytime nomand sync "
	for option := range strings.FieldsSeq(options) {
		o, err := Parse([]string{option})
		if err != nil {
			t.Errorf("%s: %v", option, err)
			continue
		}
		if want := strings.Contains(superblock, " "+option+" "); (len(o.Data) == 1) != want {
			t.Errorf("%s: parameters %v", option, o.Data)
		}
	}
}

// Each option undoes its negation, whichever of the two is recursive.
func TestNegations(t *testing.T) {
	for _, pair := range [...][2]string{
		{"ro", "rw"}, {"nosuid", "suid"}, {"nodev", "dev"}, {"noexec", "exec"}, {"nodiratime", "diratime"},
		{"nosymfollow", "symfollow"}, {"noatime", "atime"}, {"strictatime", "nostrictatime"}, {"norelatime", "relatime"},
	} {
		for _, r := range [...]string{"", "r"} {
			on, err1 := Parse([]string{r + pair[1], r + pair[0]})
			off, err2 := Parse([]string{r + pair[0], r + pair[1]})
			if err1 != nil || err2 != nil {
				t.Fatal(err1, err2)
			}
			a, b := on.Attr.Then(on.AttrRec), off.Attr.Then(off.AttrRec)
			if a.Set == 0 || b.Set != 0 {
				t.Errorf("%s%v: set %#x and %#x", r, pair, a.Set, b.Set)
			}
		}
	}
	o, err := Parse([]string{"ro", "noatime", "nodev", "rrw", "rstrictatime"})
	if err != nil {
		t.Fatal(err)
	}
	got := o.Attr.Then(o.AttrRec)
	want := Attr{Set: unix.MOUNT_ATTR_STRICTATIME | unix.MOUNT_ATTR_NODEV, Clear: unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR__ATIME}
	if got != want {
		t.Errorf("got %#x, want %#x", got, want)
	}
}
