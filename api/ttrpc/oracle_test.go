package ttrpc_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	oracle "github.com/containerd/ttrpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"kata/api/ttrpc"
)

// The same scenarios run between all four pairs of client and server, ours and
// containerd's, the last pair being what shows that the expectations are right.
// They run in bubbles of fake time, so that waiting takes none.

// end is a client as the scenarios see it.
type end struct {
	call     func(ctx context.Context, service, method, arg string) (string, error)
	code     func(error) ttrpc.Code
	metadata func(ctx context.Context, key, value string) context.Context
	close    func() error
}

var errPlain = errors.New("no code")

// methods are what both servers serve; fail and pairs are where they differ.
func methods(fail func(code uint32, text string) error, pairs func(ctx context.Context, key string) string) map[string]func(context.Context, string) (string, error) {
	return map[string]func(context.Context, string) (string, error){
		"Echo":  func(_ context.Context, arg string) (string, error) { return arg, nil },
		"Plain": func(context.Context, string) (string, error) { return "", errPlain },
		"Missing": func(context.Context, string) (string, error) {
			return "", &fs.PathError{Op: "open", Path: "x", Err: fs.ErrNotExist}
		},
		"Fail": func(_ context.Context, arg string) (string, error) {
			code, text, _ := strings.Cut(arg, " ")
			n, err := strconv.ParseUint(code, 10, 32)
			if err != nil {
				return "", err
			}
			return "", fail(uint32(n), text)
		},
		"Block": func(ctx context.Context, _ string) (string, error) {
			<-ctx.Done()
			return "", ctx.Err()
		},
		"Left": func(ctx context.Context, _ string) (string, error) {
			deadline, ok := ctx.Deadline()
			if !ok {
				return "none", nil
			}
			return time.Until(deadline).String(), nil
		},
		"Metadata": func(ctx context.Context, key string) (string, error) { return pairs(ctx, key), nil },
	}
}

func ourServer(t *testing.T, l *listener) {
	s := ttrpc.NewServer(ttrpc.ServerOptions{})
	fail := func(code uint32, text string) error {
		return fmt.Errorf("wrapped: %w", ttrpc.Errorf(ttrpc.Code(code), "%s", text))
	}
	pairs := func(ctx context.Context, key string) string {
		var values []string
		for _, p := range ttrpc.MetadataOf(ctx) {
			if p.Key == key {
				values = append(values, p.Value)
			}
		}
		return strings.Join(values, ",")
	}
	for name, f := range methods(fail, pairs) {
		handle(s, name, f)
	}
	served := make(chan error, 1)
	go func() { served <- s.Serve(context.Background(), l) }()
	t.Cleanup(func() {
		_ = s.Close()
		if err := <-served; !errors.Is(err, ttrpc.ErrServerClosed) {
			t.Errorf("serve: %v", err)
		}
	})
}

func theirServer(t *testing.T, l *listener) {
	s, err := oracle.NewServer()
	if err != nil {
		t.Fatal(err)
	}
	fail := func(code uint32, text string) error {
		return status.Error(codes.Code(code), "wrapped: "+text)
	}
	pairs := func(ctx context.Context, key string) string {
		md, _ := oracle.GetMetadata(ctx)
		values, _ := md.Get(key)
		return strings.Join(values, ",")
	}
	desc := &oracle.ServiceDesc{Methods: make(map[string]oracle.Method)}
	for name, f := range methods(fail, pairs) {
		desc.Methods[name] = func(ctx context.Context, unmarshal func(any) error) (any, error) {
			req := new(wrapperspb.StringValue)
			if err := unmarshal(req); err != nil {
				return nil, err
			}
			s, err := f(ctx, req.Value)
			return wrapperspb.String(s), err
		}
	}
	s.RegisterService(testService, desc)
	served := make(chan error, 1)
	go func() { served <- s.Serve(context.Background(), netListener{l}) }()
	t.Cleanup(func() {
		_ = s.Close()
		<-served
	})
}

func ourClient(t *testing.T, l *listener) end {
	c := ttrpc.NewClient(l.dial())
	t.Cleanup(func() { _ = c.Close() })
	return end{
		call: func(ctx context.Context, service, method, arg string) (string, error) {
			resp := new(response)
			err := c.Call(ctx, service, method, &request{ContainerId: arg}, resp)
			return resp.Metrics, err
		},
		code: ttrpc.CodeOf,
		metadata: func(ctx context.Context, key, value string) context.Context {
			return ttrpc.WithMetadata(ctx, ttrpc.Pair{Key: "other", Value: "x"}, ttrpc.Pair{Key: key, Value: value})
		},
		close: c.Close,
	}
}

func theirClient(t *testing.T, l *listener) end {
	c := oracle.NewClient(l.dial())
	t.Cleanup(func() { _ = c.Close() })
	return end{
		call: func(ctx context.Context, service, method, arg string) (string, error) {
			resp := new(wrapperspb.StringValue)
			err := c.Call(ctx, service, method, wrapperspb.String(arg), resp)
			return resp.Value, err
		},
		code: func(err error) ttrpc.Code {
			if errors.Is(err, oracle.ErrClosed) {
				return ttrpc.Unavailable
			}
			if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
				return ttrpc.CodeOf(err)
			}
			return ttrpc.Code(status.Code(err))
		},
		metadata: func(ctx context.Context, key, value string) context.Context {
			return oracle.WithMetadata(ctx, oracle.MD{"other": {"x"}, key: {value}})
		},
		close: c.Close,
	}
}

// pairs runs a scenario in a bubble for each pair of client and server.
func eachPair(t *testing.T, scenario func(t *testing.T, c end)) {
	for _, server := range []struct {
		name  string
		start func(*testing.T, *listener)
	}{{"our server", ourServer}, {"their server", theirServer}} {
		for _, client := range []struct {
			name string
			dial func(*testing.T, *listener) end
		}{{"our client", ourClient}, {"their client", theirClient}} {
			t.Run(client.name+", "+server.name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					l := newListener()
					server.start(t, l)
					scenario(t, client.dial(t, l))
				})
			})
		}
	}
}

// want checks the outcome of a call.
func want(t *testing.T, c end, what, got string, err error, wantText string, wantCode ttrpc.Code) {
	t.Helper()
	if code := c.code(err); code != wantCode {
		t.Errorf("%s: code %v (%v), want %v", what, code, err, wantCode)
	}
	if wantCode != ttrpc.OK {
		if err != nil && !strings.Contains(err.Error(), wantText) {
			t.Errorf("%s: error %q lacks %q", what, err, wantText)
		}
	} else if got != wantText {
		t.Errorf("%s: %.100q (%d bytes), want %.100q (%d bytes)", what, got, len(got), wantText, len(wantText))
	}
}

func TestOracleAnswers(t *testing.T) {
	large := strings.Repeat("x", ttrpc.MaxMessage-100)
	tooLarge := strings.Repeat("x", ttrpc.MaxMessage)
	table := []struct {
		name, service, method, arg string
		text                       string
		code                       ttrpc.Code
	}{
		{"a string comes back", testService, "Echo", "hello", "hello", ttrpc.OK},
		{"an empty message comes back", testService, "Echo", "", "", ttrpc.OK},
		{"the largest message passes", testService, "Echo", large, large, ttrpc.OK},
		{"a larger one does not", testService, "Echo", tooLarge, "exceed", ttrpc.ResourceExhausted},
		{"a code and a text come back", testService, "Fail", "5 no such thing", "wrapped: no such thing", ttrpc.NotFound},
		{"also the last code", testService, "Fail", "16 who are you", "who are you", ttrpc.Unauthenticated},
		{"also a code nobody knows", testService, "Fail", "77 odd", "odd", 77},
		{"an error without code is unknown", testService, "Plain", "", "no code", ttrpc.Unknown},
		{"a missing file is not found", testService, "Missing", "", "open x", ttrpc.NotFound},
		{"an unknown method is unimplemented", testService, "Nothing", "", "Nothing", ttrpc.Unimplemented},
		{"an unknown service is unimplemented", "test.Nothing", "Echo", "", "test.Nothing", ttrpc.Unimplemented},
	}
	eachPair(t, func(t *testing.T, c end) {
		for _, tt := range table {
			got, err := c.call(t.Context(), tt.service, tt.method, tt.arg)
			want(t, c, tt.name, got, err, tt.text, tt.code)
		}
	})
}

func TestOracleDeadlines(t *testing.T) {
	eachPair(t, func(t *testing.T, c end) {
		got, err := c.call(t.Context(), testService, "Left", "")
		want(t, c, "no deadline", got, err, "none", ttrpc.OK)

		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		got, err = c.call(ctx, testService, "Left", "")
		want(t, c, "a minute", got, err, "1m0s", ttrpc.OK)

		start := time.Now()
		ctx, cancel = context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		got, err = c.call(ctx, testService, "Block", "")
		want(t, c, "blocked", got, err, "context deadline exceeded", ttrpc.DeadlineExceeded)
		if took := time.Since(start); took != 3*time.Second {
			t.Errorf("blocked for %v, want 3s", took)
		}

		ctx, cancel = context.WithCancel(t.Context())
		go func() {
			synctest.Wait()
			cancel()
		}()
		got, err = c.call(ctx, testService, "Block", "")
		want(t, c, "cancelled", got, err, "context canceled", ttrpc.Canceled)

		got, err = c.call(t.Context(), testService, "Echo", "still here")
		want(t, c, "after all that", got, err, "still here", ttrpc.OK)
	})
}

func TestOracleMetadata(t *testing.T) {
	eachPair(t, func(t *testing.T, c end) {
		got, err := c.call(c.metadata(t.Context(), "trace", "17"), testService, "Metadata", "trace")
		want(t, c, "with", got, err, "17", ttrpc.OK)
		got, err = c.call(t.Context(), testService, "Metadata", "trace")
		want(t, c, "without", got, err, "", ttrpc.OK)
	})
}

func TestOracleConcurrentCalls(t *testing.T) {
	eachPair(t, func(t *testing.T, c end) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		var calls sync.WaitGroup
		for i := range 100 {
			calls.Go(func() {
				if i%10 == 0 {
					_, err := c.call(ctx, testService, "Block", "")
					want(t, c, "block", "", err, "deadline", ttrpc.DeadlineExceeded)
					return
				}
				arg := strings.Repeat(strconv.Itoa(i), 1+i*100)
				for range 10 {
					got, err := c.call(t.Context(), testService, "Echo", arg)
					want(t, c, "echo", got, err, arg, ttrpc.OK)
				}
			})
		}
		calls.Wait()
	})
}

func TestOracleClientCloses(t *testing.T) {
	eachPair(t, func(t *testing.T, c end) {
		result := make(chan error)
		go func() {
			_, err := c.call(t.Context(), testService, "Block", "")
			result <- err
		}()
		synctest.Wait()
		if err := c.close(); err != nil {
			t.Errorf("close: %v", err)
		}
		want(t, c, "in progress", "", <-result, "closed", ttrpc.Unavailable)
		_, err := c.call(t.Context(), testService, "Echo", "")
		want(t, c, "afterwards", "", err, "closed", ttrpc.Unavailable)
		// The bubble ends only if the blocked handler was cancelled.
	})
}
