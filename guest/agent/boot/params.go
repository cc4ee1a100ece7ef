package boot

import (
	"errors"
	"strconv"
	"strings"
	"time"

	"kata/api"
	"kata/guest/agent/log"
	"kata/lib/fmt"
)

// maxPipeSize bounds agent.container_pipe_size: what the kernel lets every user
// have (/proc/sys/fs/pipe-max-size).
const maxPipeSize = 1 << 20

// maxHotplugTimeout bounds agent.hotplug_timeout.
const maxHotplugTimeout = time.Hour

// Params are the agent's kernel parameters, agent.* on the command line.
type Params struct {
	// LogLevel is agent.log.
	LogLevel log.Level
	// LogPort is agent.log_vport: the host's vsock port for logs, 0 for the
	// console.
	LogPort uint32
	// DebugConsolePort is agent.debug_console_vport, 0 for none.
	DebugConsolePort uint32
	// DebugConsole is agent.debug_console: without a port the console is the
	// machine's.
	DebugConsole bool
	// ReadyPort is agent.ready_vport: the host's vsock port to connect to when
	// the agent listens, 0 for none. (An addition to upstream's.)
	ReadyPort uint32
	// HotplugTimeout is agent.hotplug_timeout.
	HotplugTimeout time.Duration
	// PipeSize is agent.container_pipe_size in bytes, 0 for the kernel's
	// default.
	PipeSize int
	// ServerAddr is agent.server_addr.
	ServerAddr Addr
	// Problems are the agent.* parameters that were not understood; they have
	// no effect.
	Problems []Problem
}

// Problem is a kernel parameter that has no effect.
type Problem struct {
	Key, Value string
	Err        error
}

var errUnknownKey = errors.New("unknown parameter")

// ParseCommandLine returns the agent's parameters in a kernel command line
// (Documentation/admin-guide/kernel-parameters.rst). Parameters of others are
// skipped; of one given twice the last counts, as for the kernel.
func ParseCommandLine(line string) Params {
	p := Params{LogLevel: log.LevelInfo, HotplugTimeout: 3 * time.Second, ServerAddr: Addr{Port: api.PortAgent}}
	for _, word := range words(line) {
		if word == "--" {
			break // what follows is for init, not parameters
		}
		key, value, _ := strings.Cut(word, "=")
		if !strings.HasPrefix(key, "agent.") {
			continue
		}
		if err := p.set(key, value); err != nil {
			p.Problems = append(p.Problems, Problem{Key: key, Value: value, Err: err})
		}
	}
	return p
}

func (p *Params) set(key, value string) (err error) {
	switch key {
	case "agent.log":
		level, err := log.ParseLevel(value)
		if err != nil {
			return err
		}
		p.LogLevel = level
	case "agent.log_vport":
		return setPort(&p.LogPort, value)
	case "agent.debug_console_vport":
		return setPort(&p.DebugConsolePort, value)
	case "agent.debug_console":
		return setFlag(&p.DebugConsole, value)
	case "agent.ready_vport":
		return setPort(&p.ReadyPort, value)
	case "agent.hotplug_timeout":
		seconds, err := parseUint(value, uint64(maxHotplugTimeout/time.Second))
		if err != nil {
			return err
		}
		p.HotplugTimeout = time.Duration(seconds) * time.Second
	case "agent.container_pipe_size":
		size, err := parseUint(value, maxPipeSize)
		if err != nil {
			return err
		}
		p.PipeSize = int(size)
	case "agent.server_addr":
		addr, err := parseAddr(value)
		if err != nil {
			return err
		}
		p.ServerAddr = addr
	default:
		return errUnknownKey
	}
	return nil
}

func setPort(port *uint32, value string) error {
	// VMADDR_PORT_ANY is no port.
	n, err := parseUint(value, 1<<32-2)
	if err != nil {
		return err
	}
	*port = uint32(n)
	return nil
}

// setFlag sets a flag, which may have a value as upstream's files write it.
func setFlag(flag *bool, value string) error {
	switch value {
	case "", "1", "true", "on", "yes":
		*flag = true
	case "0", "false", "off", "no":
		*flag = false
	default:
		return errors.New("neither true nor false")
	}
	return nil
}

// parseUint parses a decimal number of at most limit.
func parseUint(value string, limit uint64) (uint64, error) {
	n, err := strconv.ParseUint(value, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("not a number: %w", errors.Unwrap(err))
	}
	if n > limit {
		return 0, fmt.Errorf("more than %d", limit)
	}
	return n, nil
}

// words splits a command line at spaces outside double quotes and drops the
// quotes, as next_arg of lib/cmdline.c does.
func words(line string) []string {
	var all []string
	var word strings.Builder
	started, quoted := false, false
	for i := 0; i < len(line); i++ {
		switch c := line[i]; {
		case c == '"':
			quoted, started = !quoted, true
		case !quoted && (c == ' ' || c == '\t' || c == '\n'):
			if started {
				all = append(all, word.String())
				word.Reset()
			}
			started = false
		default:
			word.WriteByte(c)
			started = true
		}
	}
	if started {
		all = append(all, word.String())
	}
	return all
}

// Addr is an address to listen on: a unix socket if Path is set, else a vsock
// port.
type Addr struct {
	Path string
	Port uint32
}

// parseAddr parses vsock://CID:PORT, of which the port counts (the agent
// listens on whatever context ID the machine has), and unix:///PATH.
func parseAddr(addr string) (Addr, error) {
	if path, ok := strings.CutPrefix(addr, "unix://"); ok {
		if !strings.HasPrefix(path, "/") {
			return Addr{}, fmt.Errorf("address %q: the path is not absolute", addr)
		}
		return Addr{Path: path}, nil
	}
	rest, ok := strings.CutPrefix(addr, "vsock://")
	if !ok {
		return Addr{}, fmt.Errorf("address %q is neither vsock://CID:PORT nor unix:///PATH", addr)
	}
	cid, port, ok := strings.Cut(rest, ":")
	if !ok || cid == "" {
		return Addr{}, fmt.Errorf("address %q is not vsock://CID:PORT", addr)
	}
	var a Addr
	if err := setPort(&a.Port, port); err != nil || a.Port == 0 {
		return Addr{}, fmt.Errorf("address %q has no usable port", addr)
	}
	return a, nil
}
