// Package version says which release of the host's programs this is.
package version

import "runtime/debug"

// Version is the release, in the way of semantic versioning.
const Version = "0.1.0"

// commit is set by the linker, for builds outside a checkout or without
// -buildvcs; see the Makefile.
var commit string

// Commit returns the revision that the program was built from, with "-dirty"
// appended when the tree had changes, or "unknown".
func Commit() string {
	if commit != "" {
		return commit
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	revision, dirty := "unknown", ""
	for _, s := range info.Settings {
		switch {
		case s.Key == "vcs.revision":
			revision = s.Value
		case s.Key == "vcs.modified" && s.Value == "true":
			dirty = "-dirty"
		}
	}
	return revision + dirty
}
