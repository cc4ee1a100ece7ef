package kernel

import (
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
)

// tool is something the build needs, and Debian's package that has it.
type tool struct{ name, pkg string }

func tools() []tool {
	return []tool{
		{"make", "make"}, {"gcc", "gcc"}, {"ld", "binutils"}, {"strip", "binutils"},
		{"flex", "flex"}, {"bison", "bison"}, {"bc", "bc"}, {"perl", "perl"},
		{"tar", "tar"}, {"xz", "xz-utils"}, {"lz4", "lz4"}, {"cpio", "cpio"},
	}
}

// headers are files of development packages, which objtool is built with.
func headers() []tool {
	return []tool{{"/usr/include/gelf.h", "libelf-dev"}}
}

// checkTools names everything that is missing, at once.
func checkTools() error {
	var missing, packages []string
	note := func(t tool) {
		missing = append(missing, t.name)
		if !slices.Contains(packages, t.pkg) {
			packages = append(packages, t.pkg)
		}
	}
	for _, t := range tools() {
		if _, err := exec.LookPath(t.name); err != nil {
			note(t)
		}
	}
	for _, h := range headers() {
		if _, err := os.Stat(h.name); err != nil {
			note(h)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	return fmt.Errorf("building the kernel needs %s (Debian: apt-get install %s)",
		strings.Join(missing, ", "), strings.Join(packages, " "))
}
