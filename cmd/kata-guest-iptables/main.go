// Command kata-guest-iptables reads and writes the packet filter of its network
// namespace for the agent, whose helper it is (kata/guest/agent/helper): it lies
// in the guest's image and is started for GetIPTables and SetIPTables.
//
//	kata-guest-iptables save ipv4|ipv6      writes a text as iptables-save(8) does
//	kata-guest-iptables restore ipv4|ipv6   reads one, as iptables-restore(8) does
//
// The exit status is 0, or 2 if the text is wrong, or 1 for anything else; then
// standard error says why.
package main

import (
	"errors"
	"io"
	"os"

	"kata/guest/network/iptables"
)

// Exit statuses.
const (
	failed  = 1
	badText = 2
)

func main() {
	err := run(os.Args[1:], os.Stdin, os.Stdout)
	if err == nil {
		return
	}
	_, _ = os.Stderr.WriteString(err.Error() + "\n")
	if iptables.IsTextError(err) {
		os.Exit(badText)
	}
	os.Exit(failed)
}

func run(args []string, text io.Reader, out io.Writer) error {
	if len(args) != 2 || args[0] != "save" && args[0] != "restore" || args[1] != "ipv4" && args[1] != "ipv6" {
		return errors.New("usage: kata-guest-iptables save|restore ipv4|ipv6")
	}
	// The agent is spared when memory is short, and so were what it starts.
	_ = os.WriteFile("/proc/self/oom_score_adj", []byte("0"), 0)
	family := iptables.IPv4
	if args[1] == "ipv6" {
		family = iptables.IPv6
	}
	if args[0] == "restore" {
		data, err := io.ReadAll(text)
		if err != nil {
			return err
		}
		return iptables.Restore(family, data)
	}
	saved, err := iptables.Save(family)
	if err == nil {
		_, err = out.Write(saved)
	}
	return err
}
