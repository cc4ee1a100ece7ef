package iptables

import "strconv"

// problem is an error that is its text.
type problem string

func (p problem) Error() string { return string(p) }

// wrong returns the error about what somebody wrote: what it is, the text, if
// there is one, and what is wrong.
//
//go:noinline
func wrong(what, text, reason string) error {
	if text != "" && what != "" {
		what += " "
	}
	if text != "" {
		what += quote(text)
	}
	return problem(what + ": " + reason)
}

// quote quotes what somebody wrote, not too much of it.
//
//go:noinline
func quote(s string) string {
	const most = 80
	if len(s) > most {
		return strconv.Quote(s[:most]) + "..."
	}
	return strconv.Quote(s)
}
