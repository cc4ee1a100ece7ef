// Package oom tells of the processes of containers that the kernel killed
// because there was no memory left: one event for each of them.
//
// A [Watcher] watches the containers it is given, each by its cgroup, until they
// are closed. It learns of kills in two ways: from inotify(7) on memory.events,
// soon after they happened, with one descriptor and no thread for all containers;
// and by looking at the counter when a process has exited. Either finds the
// difference to what has been told, so nothing is told twice.
//
// # What is promised
//
// Kills are counted as the kernel counts them (oom_kill of memory.events), those
// in cgroups that the container made, those for the whole machine's want of memory
// and each process of a memory.oom.group among them.
//
// An event is taken by one call of [Watcher.Next] and lies in its hands until
// [Event.Done], which brings it back if it could not be delivered. As long as its
// container exists no event is lost: what waits is a number for each container.
// Those of removed containers wait too, for as many as maxPending containers; then
// the one waiting longest is dropped, with a line in the log. Events of different
// containers come in the order in which each began to wait, and a call that came
// later gets one earlier: a caller that gave up without saying so must not
// take an event from one who still waits.
//
// [Container.Exited] is called between the end of a process and telling it. Kills
// up to then have become events when it returns, and have been delivered, as long
// as somebody takes them: see there.
package oom
