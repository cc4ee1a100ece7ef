package agentvm

import (
	"context"
	"reflect"
	"slices"
	"strings"

	"kata/api/agentpb"
	"kata/api/healthpb"
	"kata/api/ttrpc"
)

// Method is a call of the API.
type Method struct {
	Service string // as on the wire
	Name    string
	request reflect.Type // the struct
}

// Methods returns every call of the API, by name. The generated clients have a
// method of Go for each, so that it is complete.
func Methods() []Method {
	all := append(methodsOf("grpc.AgentService", reflect.TypeFor[*agentpb.AgentServiceClient]()),
		methodsOf("grpc.Health", reflect.TypeFor[*healthpb.HealthClient]())...)
	slices.SortFunc(all, func(a, b Method) int { return strings.Compare(a.Name, b.Name) })
	return all
}

func methodsOf(service string, client reflect.Type) []Method {
	var all []Method
	for i := range client.NumMethod() {
		m := client.Method(i)
		// func(receiver, context.Context, *Request) (*Response, error)
		if m.Type.NumIn() == 3 && m.Type.NumOut() == 2 {
			all = append(all, Method{service, m.Name, m.Type.In(2).Elem()})
		}
	}
	return all
}

// Request returns an empty request.
func (m Method) Request() ttrpc.Message {
	return reflect.New(m.request).Interface().(ttrpc.Message)
}

// Raw is a message of any bytes.
type Raw []byte

// SizeVT implements ttrpc.Message.
func (r Raw) SizeVT() int { return len(r) }

// MarshalToSizedBufferVT implements ttrpc.Message.
func (r Raw) MarshalToSizedBufferVT(b []byte) (int, error) {
	return copy(b[len(b)-len(r):], r), nil
}

// UnmarshalVT implements ttrpc.Message; what it gets it ignores.
func (r Raw) UnmarshalVT([]byte) error { return nil }

// Call sends a request and ignores what is in the answer.
func (m Method) Call(ctx context.Context, client *ttrpc.Client, req ttrpc.Message) error {
	return client.Call(ctx, m.Service, m.Name, req, Raw{})
}
