package pace

import (
	"testing"
	"time"
)

func TestFactor(t *testing.T) {
	for took, want := range map[time.Duration]float64{
		reference / 8:   reserve, // a faster machine has no shorter deadlines
		reference:       reserve,
		3 * reference:   3 * reserve,
		900 * reference: most,
	} {
		if got := factor(took); got != want {
			t.Errorf("the work took %v: factor %v, want %v", took, got, want)
		}
	}
}

func TestDeadlinesAreNeverShorter(t *testing.T) {
	if got := Of(time.Minute); got < reserve*time.Minute || got > most*time.Minute {
		t.Errorf("a minute is %v", got)
	}
}

func BenchmarkWork(b *testing.B) {
	for b.Loop() {
		work()
	}
}
