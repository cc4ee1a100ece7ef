package idle

import (
	"reflect"
	"testing"
	"testing/synctest"
	"time"
)

func TestWhenMemoryGoesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begun := time.Now()
		i, err := New(Config{After: time.Second, Between: 10 * time.Second})
		if err != nil {
			t.Fatal(err)
		}
		last := func() time.Duration {
			synctest.Wait()
			i.mu.Lock()
			defer i.mu.Unlock()
			if i.last.IsZero() {
				return 0
			}
			return i.last.Sub(begun)
		}
		use := func(times int) {
			for range times {
				i.Used()
			}
		}
		for _, step := range []struct {
			what string
			uses int
			wait time.Duration
			want time.Duration // of the last time
		}{
			{"not at once", 1, 900 * time.Millisecond, 0},
			{"not while it is used", 1, 900 * time.Millisecond, 0},
			{"after a second without use", 0, time.Second, 1900 * time.Millisecond},
			{"little use waits", 1, 5 * time.Second, 1900 * time.Millisecond},
			{"but not for ever", 0, 10 * time.Second, 11900 * time.Millisecond},
			{"without use never again", 0, time.Hour, 11900 * time.Millisecond},
			{"much use does not wait", much, 2 * time.Second, time.Hour + 18800*time.Millisecond},
			{"nor much use right behind it", much, 2 * time.Second, time.Hour + 20800*time.Millisecond},
		} {
			use(step.uses)
			time.Sleep(step.wait)
			if got := last(); got != step.want {
				t.Errorf("%s: memory went back after %v, want %v", step.what, got, step.want)
			}
		}
		i.timer.Stop()
	})
}

func TestHealthChecksCostAnIdleMachineNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i, err := New(Config{After: time.Second, Between: 10 * time.Second})
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		last := func() time.Time { i.mu.Lock(); defer i.mu.Unlock(); return i.last }
		before := last()
		for range manyTouches - 1 {
			i.Touched()
			time.Sleep(30 * time.Second)
		}
		if last() != before {
			t.Error("memory went back for a health check")
		}
		i.Touched()
		time.Sleep(30 * time.Second)
		if last() == before {
			t.Error("what many checks have left stays")
		}
		i.timer.Stop()
	})
}

func TestTheProgramsPagesComeBack(t *testing.T) {
	i, err := New(Config{After: time.Hour, Text: true})
	if err != nil {
		t.Fatal(err)
	}
	defer i.timer.Stop()
	here, found := reflect.ValueOf(TestTheProgramsPagesComeBack).Pointer(), false
	for _, m := range i.text {
		found = found || here >= m.start && here < m.start+m.size
	}
	if !found {
		t.Errorf("this function, at %#x, is in none of %v", here, i.text)
	}
	i.trim()
	i.trim() // runs, after all
}
