package cpulist

import (
	"strings"
	"testing"
)

func TestMapKeepsWhatIsThereAndSpreadsTheRest(t *testing.T) {
	for _, tt := range []struct{ list, have, want string }{
		{"0-1", "0", "0"},
		{"0-1", "0-3", "0-1"},
		{"1", "0", "0"},
		{"4-7", "0-3", "0-3"},
		{"2-3", "0-1", "0-1"},
		{"8", "0-2", "2"},
		{"1,3", "1,5", "1,5"},
		{"0-2, 5,63-64", "0-127", "0-2,5,63-64"},
		{"8191", "0-1", "1"},
	} {
		if got, err := Map(tt.list, tt.have); err != nil || got != tt.want {
			t.Errorf("%s of %s: %q, %v; want %q", tt.list, tt.have, got, err, tt.want)
		}
	}
	for list, want := range map[string]string{
		"": "is not a list", "x": "is not a list", "3-1": "is not a list", "1-": "is not a list", "1,": "is not a list",
		"8192": "goes beyond 8191", "0-4294967295": "goes beyond 8191", "99999999999": "is not a list",
	} {
		if got, err := Map(list, "0"); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %q, %v; want %s", list, got, err, want)
		}
	}
}

func FuzzMap(f *testing.F) {
	f.Add("0-3,7", "0,2")
	f.Fuzz(func(t *testing.T, list, have string) {
		mapped, err := Map(list, have)
		if err != nil {
			return
		}
		there, _ := Parse(have)
		part, err := Parse(mapped)
		if err != nil {
			t.Fatalf("%s of %s: %q: %v", list, have, mapped, err)
		}
		for _, n := range part.numbers() {
			if !there.has(n) {
				t.Errorf("%s of %s: %s", list, have, mapped)
			}
		}
	})
}
