package qmp

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net"
	"os"
	"reflect"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// socketPair returns two connected unix sockets.
func socketPair(t testing.TB) (a, b *net.UnixConn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var conns [2]*net.UnixConn
	for i, fd := range fds {
		file := os.NewFile(uintptr(fd), "pair")
		conn, err := net.FileConn(file)
		file.Close()
		if err != nil {
			t.Fatal(err)
		}
		conns[i] = conn.(*net.UnixConn)
		t.Cleanup(func() { conn.Close() })
	}
	return conns[0], conns[1]
}

// A transcript is a recorded conversation, one message a line: "< " what QEMU
// said, "> " what the client did.
type transcript []string

func readTranscript(t *testing.T, path string) transcript {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var lines transcript
	for _, line := range strings.Split(strings.TrimSpace(string(content)), "\n") {
		if line != "" && !strings.HasPrefix(line, "#") {
			lines = append(lines, line)
		}
	}
	return lines
}

// play is QEMU's side of a transcript: it expects the client's commands in
// order, and answers with the id the client used. It returns the first
// deviation.
func (lines transcript) play(conn net.Conn) error {
	defer conn.Close()
	in := bufio.NewReader(conn)
	ids := map[string]json.RawMessage{} // id in the transcript to the client's
	for _, line := range lines {
		kind, text, _ := strings.Cut(line, " ")
		var recorded map[string]json.RawMessage
		if err := json.Unmarshal([]byte(text), &recorded); err != nil {
			return err
		}
		if kind == "<" {
			if id, ok := recorded["id"]; ok {
				text = strings.Replace(text, `"id": `+string(id), `"id": `+string(ids[string(id)]), 1)
			}
			if _, err := io.WriteString(conn, text+"\r\n"); err != nil {
				return err
			}
			continue
		}
		got, err := in.ReadBytes('\n')
		if err != nil {
			return err
		}
		var command map[string]json.RawMessage
		if err := json.Unmarshal(got, &command); err != nil {
			return err
		}
		ids[string(recorded["id"])] = command["id"]
		delete(recorded, "id")
		delete(command, "id")
		if !reflect.DeepEqual(recorded, command) {
			return errors.New("client said " + string(bytes.TrimSpace(got)) + ", expected " + text)
		}
	}
	return nil
}
