package vhostuser

// Start says what the driver behind a queue that starts knows of the device.
type Start int

const (
	// StartFresh: the driver has just set the queue up.
	StartFresh Start = iota
	// StartResumed: the queue goes on exactly where this session stopped
	// it; the VM was paused.
	StartResumed
	// StartTakenOver: the driver has used the queue with another back-end,
	// whose state is lost; the VM was restored.
	StartTakenOver
)

// Device is a virtio device as [Serve] drives it. Attach is called first and
// once; Started and Stopped come from one goroutine, Available from one
// goroutine a queue.
type Device interface {
	// Features returns the device's own feature bits to offer the driver
	// (virtio 1.2, section 5); those of rings and transport are added.
	Features() uint64
	// Queues returns the number of virtqueues, the same at every call.
	Queues() int
	// Config returns the device's configuration space, at most 256 bytes.
	Config() []byte
	// Attach hands over the queues, in the specification's order. They are
	// stopped.
	Attach(queues []*Queue)
	// Started tells that queue i works from now on.
	Started(i int, how Start)
	// Stopped tells that queue i does not work until Started.
	Stopped(i int)
	// Available is called when the driver has added buffers to queue i,
	// after it was started, and after [Queue.Wake]. It must process them
	// with [Queue.Do] and not wait for anything but short locks. An error
	// ends the session; [ErrStopped] is ignored.
	Available(i int) error
}
