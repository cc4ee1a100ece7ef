package task

import (
	"context"
	"errors"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"kata/api/ttrpc"
	"kata/host/untrusted"
)

// toStatus gives an error the code by which containerd's clients tell what it
// is, and makes it one line that every client can show: its text may be the guest's, the
// VMM's or the file server's. An error of the agent keeps its code only where
// that cannot be mistaken for a statement about the task itself: "not found"
// would say that there is no such task, when a command is missing.
func toStatus(err error) error {
	if err == nil {
		return nil
	}
	return status.Error(codeOf(err), untrusted.Line(err.Error(), untrusted.MaxLine))
}

func codeOf(err error) codes.Code {
	for _, known := range []struct {
		is   func(error) bool
		code codes.Code
	}{
		{errdefs.IsNotFound, codes.NotFound},
		{errdefs.IsAlreadyExists, codes.AlreadyExists},
		{errdefs.IsInvalidArgument, codes.InvalidArgument},
		{errdefs.IsFailedPrecondition, codes.FailedPrecondition},
		{errdefs.IsNotImplemented, codes.Unimplemented},
		{errdefs.IsAborted, codes.Aborted},
		{errdefs.IsUnavailable, codes.Unavailable},
	} {
		if known.is(err) {
			return known.code
		}
	}
	var agent *ttrpc.Error
	if errors.As(err, &agent) {
		switch c := codes.Code(agent.Code); c {
		case codes.DeadlineExceeded, codes.Unimplemented, codes.InvalidArgument, codes.FailedPrecondition, codes.ResourceExhausted:
			return c
		}
		return codes.Unknown
	}
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return codes.DeadlineExceeded
	case errors.Is(err, context.Canceled):
		return codes.Canceled
	}
	return codes.Unknown
}
