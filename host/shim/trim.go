package shim

import (
	"context"
	"runtime/debug"
	"time"

	"github.com/containerd/ttrpc"
)

const (
	// gcPercent trades processor time, of which a shim needs little, for
	// memory, which every pod has to pay.
	gcPercent = 40
	// trimDelay is how long after the last request the memory that it took is
	// given back to the kernel.
	trimDelay = 3 * time.Second
)

// trimmer gives memory back after the server has been busy. An idle server has
// no timer running.
type trimmer struct{ busy chan struct{} }

func newTrimmer() *trimmer { return &trimmer{busy: make(chan struct{}, 1)} }

// intercept notes that a request came.
func (t *trimmer) intercept(ctx context.Context, unmarshal ttrpc.Unmarshaler, _ *ttrpc.UnaryServerInfo, method ttrpc.Method) (any, error) {
	resp, err := method(ctx, unmarshal)
	select {
	case t.busy <- struct{}{}:
	default:
	}
	return resp, err
}

// start begins to trim; the result ends it.
func (t *trimmer) start() (stop func()) {
	debug.SetGCPercent(gcPercent)
	end, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		timer := time.NewTimer(trimDelay)
		defer timer.Stop()
		for {
			select {
			case <-end:
				return
			case <-t.busy:
				timer.Reset(trimDelay)
			case <-timer.C:
				debug.FreeOSMemory()
			}
		}
	}()
	return func() { close(end); <-ended }
}
