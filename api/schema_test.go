package api_test

import (
	"bufio"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// TestUpstream holds the schema to upstream's: every method, message and
// field is there, with number and type, and what is ours is numbered from 1000 up or in a
// message of our own.
func TestUpstream(t *testing.T) {
	ours := readSchema(t)
	upstreams := make(map[string]bool) // messages
	known := make(map[string]bool)
	for _, line := range readLines(t, "testdata/upstream.txt") {
		if strings.HasPrefix(line, "#") {
			continue
		}
		known[line] = true
		words := strings.Fields(line)
		upstreams[words[0]+" "+words[1]] = true
		if !ours[line] {
			t.Errorf("not in the schema: %s", line)
		}
	}
	for _, line := range slices.Sorted(maps.Keys(ours)) {
		words := strings.Fields(line)
		if len(words) < 5 || known[line] || !upstreams[words[0]+" "+words[1]] {
			continue
		}
		if n, err := strconv.Atoi(words[2]); err != nil || n < 1000 {
			t.Errorf("not upstream's, but numbered below 1000: %s", line)
		}
	}
}

var (
	methodLine  = regexp.MustCompile(`^\s+rpc (\w+)\(`)
	messageLine = regexp.MustCompile(`^message (\w+) \{`)
	fieldLine   = regexp.MustCompile(`^\s+(optional |repeated )?([\w.]+|map<\w+, \w+>) (\w+) = (\d+);`)
)

// readSchema returns the messages and fields of all .proto files in the form of
// upstream.txt. It knows as much of the language as our files use.
func readSchema(t *testing.T) map[string]bool {
	t.Helper()
	paths, err := filepath.Glob("proto/*.proto")
	if err != nil || len(paths) == 0 {
		t.Fatalf("no schema: %v", err)
	}
	schema := make(map[string]bool)
	for _, path := range paths {
		file := strings.TrimSuffix(filepath.Base(path), ".proto")
		message := ""
		for _, line := range readLines(t, path) {
			if m := messageLine.FindStringSubmatch(line); m != nil {
				message = m[1]
				schema[file+" "+message] = true
			} else if m := methodLine.FindStringSubmatch(line); m != nil {
				schema[file+" rpc "+m[1]] = true
			} else if m := fieldLine.FindStringSubmatch(line); m != nil {
				kind := strings.ReplaceAll(m[2], ", ", ",")
				if m[1] == "repeated " {
					kind = "[]" + kind
				}
				schema[fmt.Sprintf("%s %s %s %s %s", file, message, m[4], m[3], kind)] = true
			}
		}
	}
	return schema
}

func readLines(t *testing.T, path string) []string {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var lines []string
	s := bufio.NewScanner(f)
	for s.Scan() {
		lines = append(lines, s.Text())
	}
	if err := s.Err(); err != nil {
		t.Fatal(err)
	}
	return lines
}
