// Package e2e runs containers as a user would, with ctr under a private
// containerd, and checks what the user sees and what is left behind.
//
// The behaviour suite runs twice: with runc, which shows that the test is
// right, and with kata, which is what is tested.
package e2e
