package plan

import (
	"encoding/binary"
	"errors"

	"kata/guest/container/capability"
	"kata/guest/container/hooks"
	"kata/lib/fmt"
)

// maxPlan bounds a plan on its way, in bytes.
const maxPlan = 16 << 20

// Marshal returns a plan as the stage reads it.
func (p *Plan) Marshal() ([]byte, error) {
	c := coder{}
	c.plan(p)
	if n := len(c.b); n > maxPlan {
		return nil, fmt.Errorf("the spec has %d bytes; at most %d are possible", n, maxPlan)
	}
	return c.b, nil
}

// Unmarshal is the opposite of Marshal. Bytes that are no plan are an error.
func (p *Plan) Unmarshal(b []byte) error {
	c := coder{b: b, reads: true}
	c.plan(p)
	if !c.failed && len(c.b) == 0 {
		return nil
	}
	return errors.New("what was sent is no plan")
}

// coder writes values, or reads them into the places where they would be written
// from, so that both directions are one description: a number is a varint, a text
// its length and its bytes, a list its length and its elements, each of at least a
// byte. Writing changes nothing: execs at once write what their container has in
// common.
type coder struct {
	b      []byte // what has been written, or is still to be read
	reads  bool
	failed bool
}

func (c *coder) uint64(v *uint64) {
	if !c.reads {
		c.b = binary.AppendUvarint(c.b, *v)
		return
	}
	n := 0
	if *v, n = binary.Uvarint(c.b); n <= 0 {
		c.fail()
		return
	}
	c.b = c.b[n:]
}

func (c *coder) fail() { c.failed, c.b = true, nil }

func number[T ~int | ~int32 | ~int64 | ~uint16 | ~uint32](c *coder, v *T) {
	n := uint64(*v)
	c.uint64(&n)
	if c.reads {
		*v = T(n)
	}
}

func (c *coder) bool(v *bool) {
	n := uint64(0)
	if *v {
		n = 1
	}
	c.uint64(&n)
	if c.reads {
		*v = n == 1
	}
}

// length codes the number of things that follow, at least a byte each.
func (c *coder) length(n int) int {
	v := uint64(n)
	c.uint64(&v)
	if c.reads && v > uint64(len(c.b)) {
		c.fail()
		return 0
	}
	return int(v)
}

func (c *coder) text(v *string) {
	n := c.length(len(*v))
	if !c.reads {
		c.b = append(c.b, *v...)
		return
	}
	*v, c.b = string(c.b[:n]), c.b[n:]
}

func (c *coder) bytes(v *[]byte) {
	n := c.length(len(*v))
	if !c.reads {
		c.b = append(c.b, *v...)
		return
	}
	*v, c.b = c.b[:n:n], c.b[n:]
}

// grow codes the length of a list, and makes it when it is read. (A function for
// each element would cost a type in the agent's binary for each.)
func grow[T any](c *coder, v *[]T) {
	if n := c.length(len(*v)); c.reads && n > 0 {
		*v = make([]T, n)
	}
}

func (c *coder) texts(v *[]string) {
	grow(c, v)
	for i := range *v {
		c.text(&(*v)[i])
	}
}

func (c *coder) uint32s(v *[]uint32) {
	grow(c, v)
	for i := range *v {
		number(c, &(*v)[i])
	}
}

func (c *coder) plan(p *Plan) {
	c.process(&p.Process)
	c.common(&p.Common)
	c.bool(&p.Entered)
	c.bool(&p.Privileged)
	grow(c, &p.Trees)
	for i := range p.Trees {
		number(c, &p.Trees[i])
	}
	grow(c, &p.Namespaces)
	for i := range p.Namespaces {
		n := &p.Namespaces[i]
		c.text(&n.Type)
		number(c, &n.Flag)
		c.text(&n.Path)
	}
	c.text(&p.Root.Path)
	c.bool(&p.Root.Readonly)
	c.uint64(&p.Root.Propagation)
	grow(c, &p.Mounts)
	for i := range p.Mounts {
		c.mount(&p.Mounts[i])
	}
	grow(c, &p.Devices)
	for i := range p.Devices {
		d := &p.Devices[i]
		c.text(&d.Path)
		for _, v := range [...]*uint32{&d.Kind, &d.Major, &d.Minor, &d.Mode, &d.UID, &d.GID} {
			number(c, v)
		}
	}
	c.texts(&p.Readonly)
	c.texts(&p.Masked)
	c.text(&p.Hostname)
	c.text(&p.Domainname)
	grow(c, &p.Sysctls)
	for i := range p.Sysctls {
		s := &p.Sysctls[i]
		c.text(&s.Key)
		c.text(&s.Path)
		c.text(&s.Value)
	}
	c.bool(&p.AwaitsHooks)
	c.hooks(&p.CreateContainer)
	c.hooks(&p.StartContainer)
	if len(p.CreateContainer)+len(p.StartContainer) > 0 {
		c.state(&p.State)
	}
}

func (c *coder) process(p *Process) {
	c.texts(&p.Args)
	c.texts(&p.Env)
	c.text(&p.Cwd)
	c.bool(&p.Terminal)
	number(c, &p.Rows)
	number(c, &p.Columns)
	number(c, &p.User.UID)
	number(c, &p.User.GID)
	c.uint32s(&p.User.Groups)
	number(c, &p.User.Umask)
	c.text(&p.Names.User)
	c.text(&p.Names.Group)
	c.texts(&p.Names.Groups)
	s := &p.Capabilities
	for _, set := range [...]*capability.Set{&s.Bounding, &s.Effective, &s.Inheritable, &s.Permitted, &s.Ambient} {
		c.uint64((*uint64)(set))
	}
	c.bool(&p.NoNewPrivileges)
	grow(c, &p.Rlimits)
	for i := range p.Rlimits {
		l := &p.Rlimits[i]
		c.text(&l.Name)
		number(c, &l.Resource)
		c.uint64(&l.Soft)
		c.uint64(&l.Hard)
	}
	number(c, &p.OOMScoreAdj)
	c.scheduler(&p.Scheduler)
	if there := p.IOPriority != nil; c.optional(there) {
		if !there {
			p.IOPriority = new(IOPriority)
		}
		c.text(&p.IOPriority.Class)
		number(c, &p.IOPriority.Number)
		number(c, &p.IOPriority.Priority)
	}
}

// optional codes whether something is there.
func (c *coder) optional(there bool) bool {
	c.bool(&there)
	return there
}

func (c *coder) scheduler(v **Scheduler) {
	there := *v != nil
	if !c.optional(there) {
		return
	}
	if !there {
		*v = new(Scheduler)
	}
	s, a := *v, &(*v).Attr
	c.text(&s.Policy)
	number(c, &a.Size)
	number(c, &a.Policy)
	c.uint64(&a.Flags)
	number(c, &a.Nice)
	number(c, &a.Priority)
	c.uint64(&a.Runtime)
	c.uint64(&a.Deadline)
	c.uint64(&a.Period)
}

func (c *coder) common(p *Common) {
	grow(c, &p.Filters)
	for i := range p.Filters {
		c.bytes(&p.Filters[i])
	}
	number(c, &p.Flags)
	number(c, &p.Personality)
	there := p.Memory != nil
	if !c.optional(there) {
		return
	}
	if !there {
		p.Memory = new(MemoryPolicy)
	}
	m := p.Memory
	c.text(&m.Name)
	c.uint64(&m.Mode)
	grow(c, &m.Nodes)
	for i := range m.Nodes {
		c.uint64(&m.Nodes[i])
	}
}

// mount does not code ID mappings: the runtime makes such mounts, and sends trees.
func (c *coder) mount(m *Mount) {
	c.text(&m.Destination)
	c.text(&m.Type)
	c.text(&m.Source)
	o := &m.Options
	for _, v := range [...]*bool{&o.Bind, &o.Recursive, &o.CopyUp, &o.IDMap, &o.IDMapRecursive} {
		c.bool(v)
	}
	for _, v := range [...]*uint64{&o.Attr.Set, &o.Attr.Clear, &o.AttrRec.Set, &o.AttrRec.Clear} {
		c.uint64(v)
	}
	grow(c, &o.Propagation)
	for i := range o.Propagation {
		c.uint64(&o.Propagation[i])
	}
	grow(c, &o.Data)
	for i := range o.Data {
		p := &o.Data[i]
		c.text(&p.Key)
		c.text(&p.Value)
		c.bool(&p.Flag)
	}
}

func (c *coder) hooks(v *[]hooks.Hook) {
	grow(c, v)
	for i := range *v {
		h := &(*v)[i]
		c.text(&h.Path)
		c.texts(&h.Args)
		c.texts(&h.Env)
		number(c, &h.Timeout)
	}
}

func (c *coder) state(s *hooks.State) {
	c.text(&s.Version)
	c.text(&s.ID)
	c.text(&s.Bundle)
	n := c.length(len(s.Annotations))
	if !c.reads {
		for key, value := range s.Annotations {
			c.text(&key)
			c.text(&value)
		}
		return
	}
	s.Annotations = make(map[string]string)
	for range n {
		var key, value string
		c.text(&key)
		c.text(&value)
		s.Annotations[key] = value
	}
}
