//go:build vm

package share

// What the tests with a guest share with those without.
var (
	NewRootfs   = newRootfs
	WriteFile   = write
	WantContent = wantContent
)
