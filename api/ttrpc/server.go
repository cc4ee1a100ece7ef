package ttrpc

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"
)

// Defaults of ServerOptions.
const (
	DefaultMaxInFlight     = 1024
	DefaultMaxPayload      = 32 << 20
	DefaultMaxTotal        = 2048
	DefaultMaxTotalPayload = 48 << 20
	DefaultMaxAnswers      = 16 << 20
	DefaultMaxConns        = 64
	// DefaultMaxWaits fits 1,024 containers with 1,024 processes.
	DefaultMaxWaits = 1 << 20
)

// ErrServerClosed is what serving ends with after Shutdown or Close.
var ErrServerClosed = errors.New("ttrpc: server closed")

// ServerOptions bounds what clients may make a server hold. Zero values mean
// the defaults.
//
// A request over a bound is answered ResourceExhausted at once instead of
// waiting its turn: calls such as WaitProcess take as long as a container lives,
// and the call that would end them must not queue behind them.
type ServerOptions struct {
	// MaxInFlight is the number of requests in progress per connection, which
	// is the number of goroutines too.
	MaxInFlight int
	// MaxPayload is the number of payload bytes of the requests in progress
	// per connection. One request is taken whatever it is.
	MaxPayload int
	// MaxTotal and MaxTotalPayload are the same for all connections together. A
	// few requests of each connection are taken in any case, so that one client
	// cannot shut the others out.
	MaxTotal, MaxTotalPayload int
	// MaxAnswers is the number of bytes of answers that may wait, on all
	// connections, for clients to read earlier ones. What would be more is
	// answered with an error.
	MaxAnswers int
	// Waits, if set, tells which methods wait for something to happen in the world,
	// such as the exit of a process. Small requests of such methods count against
	// MaxWaits, a number on all connections together, and not as requests in
	// progress: however many things are waited for, there is room for other calls.
	Waits    func(service, method string) bool
	MaxWaits int
	// MaxConns is the number of connections that Serve serves; more are
	// closed at once.
	MaxConns int
	// Code, if set, gives the errors of handlers the codes that clients see;
	// otherwise it is CodeOf's.
	Code func(err error) error
	// OnPanic, if set, is told of a handler's panic while its stack is still
	// there. The caller gets Internal and the server goes on in any case.
	OnPanic func(service, method string, value any)
	// OnDone, if set, is told of each request that a handler has dealt with,
	// before it is answered.
	OnDone func(service, method string, took time.Duration, err error)
}

// Handler is the implementation of a method behind its typed form. Generated
// code makes them.
//
// It decodes a request, of whose bytes it keeps nothing, and returns what handles
// it. Requests stay behind their types: as interfaces they would keep the code
// that encodes them in a server's program, and answers that which decodes them.
type Handler func(payload []byte) (Call, error)

// Call handles one request. The answer is encoded after it returns and must not
// change any more; it is not looked at when there is an error.
type Call func(ctx context.Context) (Answer, error)

// Listener accepts connections for Serve. Close makes Accept return and may be
// called several times, and closing a connection makes its reads and writes return. Accept returns an
// error only when no connection can come any more.
type Listener interface {
	Accept() (io.ReadWriteCloser, error)
	Close() error
}

// Server answers calls with registered handlers. Handlers are registered
// before serving starts; what is not registered answers Unimplemented.
//
// Each request runs in a goroutine of its own. Its context ends at the deadline
// that the client set, when the connection closes and when the server stops.
type Server struct {
	opts     ServerOptions
	services map[string]map[string]*method // by service and name
	load     load

	mu        sync.Mutex
	draining  bool
	conns     map[*serverConn]struct{}
	listeners map[Listener]struct{}
	stopped   context.Context
	stop      context.CancelCauseFunc
}

// NewServer returns a server without handlers.
func NewServer(opts ServerOptions) *Server {
	for _, bound := range []struct {
		value    *int
		standard int
	}{
		{&opts.MaxInFlight, DefaultMaxInFlight},
		{&opts.MaxPayload, DefaultMaxPayload},
		{&opts.MaxTotal, DefaultMaxTotal},
		{&opts.MaxTotalPayload, DefaultMaxTotalPayload},
		{&opts.MaxAnswers, DefaultMaxAnswers},
		{&opts.MaxConns, DefaultMaxConns},
		{&opts.MaxWaits, DefaultMaxWaits},
	} {
		if *bound.value <= 0 {
			*bound.value = bound.standard
		}
	}
	s := &Server{
		opts:      opts,
		services:  make(map[string]map[string]*method),
		conns:     make(map[*serverConn]struct{}),
		listeners: make(map[Listener]struct{}),
	}
	s.stopped, s.stop = context.WithCancelCause(context.Background())
	return s
}

// Handle registers a handler, in place of an earlier one for the same method.
// It is for generated code, and must not be called while serving.
func (s *Server) Handle(service, name string, h Handler) {
	methods := s.services[service]
	if methods == nil {
		methods = make(map[string]*method)
		s.services[service] = methods
	}
	waits := s.opts.Waits != nil && s.opts.Waits(service, name)
	methods[name] = &method{service, name, h, waits}
}

// method is a registered method.
type method struct {
	service, name string
	handler       Handler
	waits         bool
}

// Serve serves the connections of a listener until ctx ends, Accept fails or
// the server is stopped. Then it closes the listener and its connections, and
// returns when their handlers have: ctx's cause, Accept's error or
// ErrServerClosed.
func (s *Server) Serve(ctx context.Context, l Listener) error {
	ctx, cancel := context.WithCancel(ctx)
	var conns sync.WaitGroup
	defer conns.Wait()
	defer cancel()
	unhook := context.AfterFunc(ctx, func() { _ = l.Close() })
	defer func() {
		if unhook() {
			_ = l.Close()
		}
	}()
	if !s.listen(l) {
		return ErrServerClosed
	}
	defer s.unlisten(l)
	places := make(chan struct{}, s.opts.MaxConns)
	for {
		conn, err := l.Accept()
		if err != nil {
			switch {
			case s.isDraining():
				conns.Wait() // Shutdown ends them when the last answers are sent
				return ErrServerClosed
			case ctx.Err() != nil:
				return context.Cause(ctx)
			}
			return err
		}
		select {
		case places <- struct{}{}:
			conns.Go(func() {
				_ = s.ServeConn(ctx, conn)
				<-places
			})
		default:
			_ = conn.Close()
		}
	}
}

// ServeConn serves one connection, which it owns, until the client closes it,
// ctx ends or the server is stopped, and returns when its handlers have and it is
// closed. The error is nil when the client closed between two frames, else ctx's cause,
// ErrServerClosed, or what went wrong with the connection.
func (s *Server) ServeConn(ctx context.Context, conn io.ReadWriteCloser) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(ErrClosed)
	ctx = context.WithValue(ctx, connectionKey{}, ctx)
	c := &serverConn{server: s, conn: conn, cancel: cancel, writing: make(chan struct{}, 1)}
	closed := make(chan struct{})
	unhook := context.AfterFunc(ctx, func() {
		defer close(closed)
		_ = conn.Close()
	})
	defer func() {
		_ = conn.Close()
		if !unhook() {
			<-closed // closing may take until the client has its last answer
		}
	}()
	if !s.enter(c) {
		return ErrServerClosed
	}
	defer s.leave(c)
	defer context.AfterFunc(s.stopped, func() { cancel(ErrServerClosed) })()
	err := c.serve(ctx)
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	cancel(ErrClosed)
	_ = conn.Close() // before waiting: a handler may be stuck in writing
	c.handlers.Wait()
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// Shutdown stops the server in good order: it closes listeners, answers new
// requests Unavailable, waits until ctx ends for the answers of those in
// progress to be sent, then closes the connections. Calls that wait for
// something to happen in the world keep it waiting, hence the context. It
// returns ctx's error if it had to cut requests off.
//
// Serve and ServeConn return afterwards; Shutdown does not wait for them. A
// handler must not call it, since it would wait for itself.
func (s *Server) Shutdown(ctx context.Context) error {
	s.drain()
	defer s.stop(ErrServerClosed)
	for _, c := range s.connections() {
		select {
		case <-c.idle():
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// Close stops the server at once: it closes listeners and connections and
// cancels the contexts of handlers.
func (s *Server) Close() error {
	s.drain()
	s.stop(ErrServerClosed)
	return nil
}

// drain makes the server refuse what is new.
func (s *Server) drain() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.draining = true
	for l := range s.listeners {
		_ = l.Close()
	}
}

func (s *Server) isDraining() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.draining
}

func (s *Server) listen(l Listener) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.draining {
		s.listeners[l] = struct{}{}
	}
	return !s.draining
}

func (s *Server) unlisten(l Listener) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.listeners, l)
}

func (s *Server) enter(c *serverConn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.draining {
		s.conns[c] = struct{}{}
	}
	return !s.draining
}

func (s *Server) leave(c *serverConn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, c)
}

func (s *Server) connections() []*serverConn {
	s.mu.Lock()
	defer s.mu.Unlock()
	conns := make([]*serverConn, 0, len(s.conns))
	for c := range s.conns {
		conns = append(conns, c)
	}
	return conns
}
