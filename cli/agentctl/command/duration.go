package command

import (
	"fmt"
	"strconv"
	"time"
)

// ParseDuration reads a duration in Go's form (1m30s, 250ms) or, as upstream's
// tool has it, as a plain number of nanoseconds. It is never negative.
func ParseDuration(text string) (time.Duration, error) {
	d, err := time.ParseDuration(text)
	if n, numberErr := strconv.ParseInt(text, 10, 64); numberErr == nil {
		d, err = time.Duration(n), nil
	}
	if err != nil || d < 0 {
		return 0, fmt.Errorf("%q is not a duration: as 90s, 250ms, or a number of nanoseconds", text)
	}
	return d, nil
}
