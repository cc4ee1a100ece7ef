// Package stream carries the standard streams of a container's processes
// between the guest and the host.
//
// The host opens one connection a stream to the agent's stream port and names
// the connections, by their ports on its own side, in the request that creates
// the process. A [Hub] holds connections and requests until they have found
// each other. A [Set] is then the agent's side of one process: it has the
// agent's ends of the pipes, or the terminal, and copies between them and the
// connections with back-pressure all the way: what the host does not read stays
// in the guest until the process's next write blocks.
//
// A process without any connection is served by calls instead ([Set.Write],
// [Set.ReadStdout]); that is for debugging tools. The package does not know what
// a container is, nor when a process exits: it is told.
//
// Life cycle of a Set: Open before the process is made; Child gives the
// process's ends, closed by CloseChild when it has been made; SetConsole if the
// process has a terminal; Start; Written when the process has exited, exactly
// then; Close when nobody wants the streams any more. Copying goes on after the
// exit for as long as something in the container holds the other end, and it
// goes on to nowhere when the host has closed its side, so that a leftover
// process neither dies of SIGPIPE nor blocks.
package stream
