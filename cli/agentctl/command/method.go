package command

import (
	"context"
	"reflect"
	"slices"
	"strings"

	"kata/api/agentpb"
	"kata/api/healthpb"
	"kata/api/ttrpc"
)

// method is one call of the agent's API. The generated clients have a method of
// Go for each, so their method sets are the list of what there is, and it is
// always complete.
type method struct {
	name    string
	service string
	request reflect.Type // the struct
	client  func(*ttrpc.Client) any
	index   int // in the method set of the client
}

// methods returns all calls, by name.
func methods() []method {
	agent := methodsOf(reflect.TypeFor[*agentpb.AgentServiceClient](), "AgentService",
		func(c *ttrpc.Client) any { return agentpb.NewAgentServiceClient(c) })
	health := methodsOf(reflect.TypeFor[*healthpb.HealthClient](), "Health",
		func(c *ttrpc.Client) any { return healthpb.NewHealthClient(c) })
	all := append(agent, health...)
	slices.SortFunc(all, func(a, b method) int { return strings.Compare(a.name, b.name) })
	return all
}

func methodsOf(t reflect.Type, service string, client func(*ttrpc.Client) any) []method {
	var all []method
	for i := range t.NumMethod() {
		m := t.Method(i)
		// func(receiver, context.Context, *Request) (*Response, error)
		if m.Type.NumIn() != 3 || m.Type.NumOut() != 2 {
			continue
		}
		all = append(all, method{name: m.Name, service: service, request: m.Type.In(2).Elem(), client: client, index: i})
	}
	return all
}

func (m *method) newRequest() any { return reflect.New(m.request).Interface() }

// call sends the request. The error is that of ttrpc's Client.Call.
func (m *method) call(ctx context.Context, client *ttrpc.Client, request any) (response any, err error) {
	out := reflect.ValueOf(m.client(client)).Method(m.index).Call(
		[]reflect.Value{reflect.ValueOf(ctx), reflect.ValueOf(request)})
	if err, _ := out[1].Interface().(error); err != nil {
		return nil, err
	}
	return out[0].Interface(), nil
}
