// Package journal keeps on disk what a sandbox holds of its host, so that it can
// be given back by whoever comes later: the shim itself, or "shim delete" after
// the shim was killed.
//
// A journal is a folder, /run/kata/<id>, with the file "journal" in it. Each
// resource is an [Entry] of one kind: a process, a mount, a socket, a cgroup, a
// tap. The entry is written before the resource is acquired, so there is no
// moment in which something is held and not written down; it may therefore
// describe what never came to be, and releasing that is no error.
//
// # Life cycle
//
//	j, err := journal.Claim(root, header)        // the folder is ours, locked
//	seq, err := j.Add(journal.Socket{Path: p})   // then bind it
//	...
//	err = j.Release(ctx, seq)                    // unlink it, then forget it
//	err = j.ReleaseAll(ctx)                      // everything, newest first
//	err = j.Remove()                             // the folder, last
//
// After a crash [TakeOver] opens the folder of a sandbox whose shim is dead;
// ReleaseAll and Remove do the rest. An entry whose release failed stays, and is
// tried again by the next call, of this process or another.
//
// # Order
//
// ReleaseAll ends processes first, newest first, since what they hold is free
// afterwards, and then releases the rest, newest first. What the guest may use
// ([UsedByGuest]: its root file systems, the share) is kept while a process that
// runs the guest ([Process.RunsGuest]) could not be shown to be dead: taking a
// mount away under a running guest would have it write elsewhere or fail.
//
// # Mounts and namespaces
//
// A shim mounts in a mount namespace of its own, which the kernel takes down with
// its last process. An entry says in which namespace the mount was made. It is
// released there: in this process's own, or in that of a process that is still in
// it. A mount whose namespace nobody is in any more is gone, and its entry counts
// as released.
//
// # Removing files
//
// Nothing is removed by following a path through a mount. [Remove] and
// [Directory] open each directory below the one before without crossing a mount
// point (openat2(2), RESOLVE_NO_XDEV); a mount that is still attached is an error
// and what is in it stays.
//
// # Claims
//
// A folder is made whole under another name, with its lock held and its header
// written, and appears by renameat2(2) with RENAME_NOREPLACE. The lock (flock(2)
// on the folder) is held as long as the shim lives and by nobody else, so whoever
// gets it knows that the shim is dead, and no two processes clean up, or one
// cleans up what another has just made.
//
// # Format
//
// The first line is the [Header], each other line adds, replaces or forgets an
// entry, in JSON. A last line that is cut off was never acknowledged and counts
// for nothing. The file is not synced: it describes what a crash of the host ends
// as well, and lies on a tmpfs.
//
// # New kinds
//
// A kind is a type with three methods in a file of this package and a line in
// kinds. Those to come are traffic control rules (they go with their interface,
// but not on one that stays), block attachments, and the pod's cgroup on cgroup
// v1.
package journal
