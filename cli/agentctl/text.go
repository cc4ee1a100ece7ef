package agentctl

// usage is what help prints.
const usage = `usage: kata-agent-ctl [-l LEVEL] VERB [flags]

Calls the agent of a Kata guest by hand: every call of its API, by name.

verbs:
  connect        connect to an agent and run commands
  vm             boot a machine with an agent, connect to it and run commands
  console        a shell in a guest whose agent has a debug console
  generate-cid   print a random container id
  generate-sid   print a random sandbox id
  examples       print examples
  version        print the version

flags of connect and console:
  --server-address ADDRESS   vsock://CID:PORT, hvsock://PATH:PORT, unix:///PATH
                             or unix://@abstract
  --sandbox [NAMESPACE/]ID   the agent of a running pod, by the id of the pod or of
                             one of its containers, or its beginning

flags of vm:
  --config FILE     configuration.toml (default: looked up as the runtime does;
                    without any, the guest in ../build/guest beside the program)
  --kernel FILE     guest kernel
  --initrd FILE     initrd with the agent
  --share           share bundles with the guest, so that containers can run

flags of connect and vm:
  -c, --cmd COMMAND       run a command; may be given often
  -i, --interactive       then read commands from the terminal or standard input
  --bundle-dir DIR        bundle whose config.json describes containers
  --timeout DURATION      bound of each call: 5s, or nanoseconds; 0 is none
  --ignore-errors         go on after a command that fails
  --json                  answers and failures as JSON, one object a line
  -n, --no-auto-values    add nothing to requests: no ids, no spec, no defaults
  -l, --log-level LEVEL   debug, info, warn (default) or error

The command help lists the calls; help CALL shows what one takes.

Exit status: 0, or 1 when a command failed (unless errors are ignored), or 2
when the command line is wrong; then nothing was sent.
`

// examples is what the verb of that name prints.
const examples = `Is the agent of a guest up?

  $ kata-agent-ctl connect --server-address vsock://3:1024 -c Check

The same over a VMM's hybrid vsock, a socket, and an abstract socket:

  $ kata-agent-ctl connect --server-address hvsock:///run/vm.sock:1024 -c Check
  $ kata-agent-ctl connect --server-address unix:///tmp/agent.sock -c Check
  $ kata-agent-ctl connect --server-address unix://@agent -c Check

Boot a machine for it, and type commands:

  $ kata-agent-ctl vm -i

All commands; what one of them takes:

  $ kata-agent-ctl connect --server-address unix:///tmp/agent.sock -c list
  $ kata-agent-ctl connect --server-address unix:///tmp/agent.sock -c 'help CopyFile'

Run a container from a bundle in a machine of its own, and read its output:

  $ kata-agent-ctl vm --share --bundle-dir /tmp/bundle -c CreateSandbox \
      -c CreateContainer -c StartContainer -c WaitProcess -c ReadStdout

With another command than the bundle's, and a name:

  $ kata-agent-ctl vm --share --bundle-dir /tmp/bundle -c CreateSandbox \
      -c 'CreateContainer cid=web args="sleep 100"' -c StartContainer \
      -c 'ExecProcess exec_id=e args="ls -l /"' -c 'WaitProcess exec_id=e' -c 'ReadStdout exec_id=e'

A shell in a running pod's guest (debug_console_enabled, an image with a shell):

  $ kata-agent-ctl console --sandbox web

Send a signal:

  $ kata-agent-ctl connect --server-address vsock://3:1024 -c 'SignalProcess cid=web signal=SIGUSR1'

A request as JSON, on the command line or from a file:

  $ kata-agent-ctl connect --server-address vsock://3:1024 \
      -c 'GetGuestDetails json://{"mem_block_size": true, "mem_hotplug_probe": true}'
  $ echo '{"mem_block_size": true}' > /tmp/request.json
  $ kata-agent-ctl connect --server-address vsock://3:1024 -c 'GetGuestDetails file:///tmp/request.json'

Answers for a program:

  $ kata-agent-ctl connect --server-address vsock://3:1024 --json -c ListInterfaces | jq .response

Seven times, whatever comes back; and for ever:

  $ kata-agent-ctl connect --server-address vsock://3:1024 --ignore-errors -c 'repeat 7 CreateSandbox'
  $ kata-agent-ctl connect --server-address vsock://3:1024 -c 'repeat -1 Check'
`
