// Package observe holds tests of what the agent tells about its guest, each with
// the real agent in a virtual machine of its own: OOM events, logs, the debug
// console, metrics and diagnostic data. They have the build tag vm.
package observe
