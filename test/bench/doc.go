// Package bench measures what SPECIFICATION.md promises: with real containers
// under a private containerd, and with runc or the bare machine beside them in
// the same run, because ratios travel between machines and seconds do not.
//
// Each benchmark takes its rounds itself, in turn with its peers, and reports
// medians; run it with -benchtime 1x. The table at the end is the result.
package bench
