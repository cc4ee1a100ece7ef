package command

import (
	"context"
	"strings"

	"kata/api/ttrpc"
	"kata/cli/agentctl/message"
)

// method is one call of the agent's API.
type method struct {
	name string
	desc message.Method
}

// methods returns all calls, by name.
func methods() []method {
	var all []method
	for _, m := range message.New().Methods() {
		all = append(all, method{m.Name, m})
	}
	return all
}

// service is the name of the service without its package, for people.
func (m *method) service() string {
	return m.desc.Service[strings.LastIndexByte(m.desc.Service, '.')+1:]
}

func (m *method) newRequest() *message.Message { return m.desc.Request.New() }

// call sends the request. The error is that of ttrpc's Client.Call.
func (m *method) call(ctx context.Context, client *ttrpc.Client, request *message.Message) (*message.Message, error) {
	response := m.desc.Response.New()
	if err := client.Call(ctx, m.desc.Service, m.name, request, response); err != nil {
		return nil, err
	}
	return response, nil
}
