package stage

import (
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"kata/lib/fmt"
)

// environment returns the process's environment: of variables that are given
// twice the last, and HOME from the container's passwd if it is not given.
func environment(pairs []string, uid uint32) []string {
	env := make([]string, 0, len(pairs)+1)
	index := make(map[string]int, len(pairs))
	for _, pair := range pairs {
		key, _, _ := strings.Cut(pair, "=")
		if i, ok := index[key]; ok {
			env[i] = pair
			continue
		}
		index[key] = len(env)
		env = append(env, pair)
	}
	if i, ok := index["HOME"]; !ok {
		env = append(env, "HOME="+home(uid))
	} else if env[i] == "HOME=" {
		env[i] += home(uid)
	}
	return env
}

// getenv returns a variable of env, or "".
func getenv(env []string, key string) string {
	for _, pair := range env {
		if value, ok := strings.CutPrefix(pair, key+"="); ok {
			return value
		}
	}
	return ""
}

// lookPath finds the file that a command names, as the shell does; the texts of
// its errors are those of os/exec, which people know from runc.
func lookPath(name string, env []string) (string, error) {
	if strings.Contains(name, "/") {
		if err := checkExecutable(name); err != nil {
			return "", fmt.Errorf("exec: %q: %w", name, err)
		}
		return name, nil
	}
	if name != "" {
		for dir := range strings.SplitSeq(getenv(env, "PATH"), ":") {
			if dir == "" {
				dir = "."
			}
			if path := dir + "/" + name; checkExecutable(path) == nil {
				return path, nil
			}
		}
	}
	return "", fmt.Errorf("exec: %q: executable file not found in $PATH", name)
}

func checkExecutable(path string) error {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return &os.PathError{Op: "stat", Path: path, Err: err}
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		return unix.EISDIR
	}
	return unix.Faccessat2(unix.AT_FDCWD, path, unix.X_OK, unix.AT_EACCESS)
}
