//go:build vm

package qmp

import (
	"bufio"
	"bytes"
	"io"
	"net"
	"os"
	"strings"
	"testing"
)

// record sits between a client and QEMU and writes the transcript.
func record(t *testing.T, qemu *net.UnixConn, path string) *net.UnixConn {
	t.Helper()
	client, proxy := socketPair(t)
	var lines bytes.Buffer
	lines.WriteString("# Recorded by go test -tags vm -update.\n")
	say := make(chan string)
	pump := func(from, to net.Conn, mark string) {
		defer to.Close()
		in := bufio.NewReader(from)
		for {
			line, err := in.ReadString('\n')
			if err != nil {
				break
			}
			say <- mark + strings.TrimSpace(line) + "\n"
			_, _ = io.WriteString(to, line)
		}
		say <- ""
	}
	go pump(proxy, qemu, "> ")
	go pump(qemu, proxy, "< ")
	written := make(chan struct{})
	go func() {
		defer close(written)
		for open := 2; open > 0; {
			line := <-say
			if line == "" {
				open--
			}
			lines.WriteString(line)
		}
	}()
	t.Cleanup(func() {
		client.Close()
		<-written
		if err := os.WriteFile(path, lines.Bytes(), 0o644); err != nil {
			t.Error(err)
		}
	})
	return client
}
