package sandbox

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"kata/host/journal"
)

func TestLookupFindsWhatIsMeant(t *testing.T) {
	root := filepath.Join(t.TempDir(), "kata")
	if _, err := Lookup(root, "web"); !errors.Is(err, ErrNoPod) {
		t.Errorf("without any pod: %v", err)
	}
	bundles := make(map[string]string) // of folders
	for _, h := range []journal.Header{
		{ID: "web", Namespace: "default", Bundle: "/1"},
		{ID: "web", Namespace: "other", Bundle: "/2"},
		{ID: "aabbcc", Namespace: "k8s.io", Bundle: "/3"},
		{ID: "aabbdd", Namespace: "k8s.io", Bundle: "/4"},
		{ID: "webserver", Namespace: "k8s.io", Bundle: "/5"},
	} {
		j, err := journal.Claim(root, h)
		if err != nil {
			t.Fatal(err)
		}
		defer j.Close()
		bundles[j.Dir()] = h.Bundle
		if h.ID != "aabbcc" {
			continue
		}
		var last journal.Seq
		for _, id := range []string{"aabbcc", "112233", "webserver", "gone"} {
			if last, err = j.Add(journal.Container{ID: id}, journal.UsedByGuest); err != nil {
				t.Fatal(err)
			}
		}
		if err := j.Forget(last); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(root, "half-made"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ is, name, want, fail string }{
		{"a sandbox's id", "aabbcc", "/3", ""},
		{"a container's id", "112233", "/3", ""},
		{"a sandbox's id that is another's container too", "webserver", "/5", ""},
		{"the beginning of a sandbox's id", "aabbd", "/4", ""},
		{"the beginning of a container's id", "1122", "/3", ""},
		{"the beginning of several", "aa", "", "sandbox aa: several pods are meant by that: k8s.io/aabbcc, k8s.io/aabbdd"},
		{"one id in two namespaces", "web", "", "sandbox web: several pods are meant by that: default/web, other/web"},
		{"the id in a namespace", "other/web", "/2", ""},
		{"the beginning in a namespace", "k8s.io/aabbd", "/4", ""},
		{"the id in another namespace", "other/aabbcc", "", "there is no such pod on this host"},
		{"a container that is gone", "gone", "", "these are: default/web, k8s.io/aabbcc, k8s.io/aabbdd, k8s.io/webserver, other/web"},
		{"a folder without a state", "half-made", "", "there is no such pod on this host"},
	} {
		t.Run(tt.is, func(t *testing.T) {
			pod, err := Lookup(root, tt.name)
			switch {
			case tt.fail == "" && (err != nil || bundles[pod.Dir] != tt.want):
				t.Errorf("%+v, %v, want %s", pod, err, tt.want)
			case tt.fail != "" && (err == nil || !strings.Contains(err.Error(), tt.fail)):
				t.Errorf("%+v, %v, want %q", pod, err, tt.fail)
			}
		})
	}
	pod, err := Lookup(root, "other/web")
	if err != nil || pod.AgentSocket() != filepath.Join(pod.Dir, "agent.sock") || filepath.Base(pod.Dir) == "web" {
		t.Errorf("socket %s, %v", pod.AgentSocket(), err)
	}
}
