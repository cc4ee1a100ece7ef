//go:build race

package main

// With the race detector in the tests the agent under test has it too.
func init() { buildFlags = append(buildFlags, "-race") }
