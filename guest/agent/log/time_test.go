package log

import (
	"math/rand/v2"
	"testing"
	"time"
)

func TestTimesAreThoseOfPackageTime(t *testing.T) {
	times := []time.Time{time.Unix(0, 0), time.Unix(-1, 0), time.UnixMicro(-1), time.UnixMicro(1)}
	for _, year := range []int{1, 1600, 1900, 1969, 1970, 1999, 2000, 2023, 2024, 2026, 2038, 2100, 9999} {
		times = append(times,
			time.Date(year, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(year, 2, 28, 23, 59, 59, 999999000, time.UTC),
			time.Date(year, 2, 29, 0, 0, 0, 0, time.UTC), time.Date(year, 3, 1, 0, 0, 0, 0, time.UTC),
			time.Date(year, 12, 31, 23, 59, 59, 999999000, time.UTC),
		)
	}
	random := rand.New(rand.NewPCG(1, 2))
	for range 100_000 {
		times = append(times, time.UnixMicro(random.Int64N(253402300800e6)))
	}
	for _, at := range times {
		got, want := string(appendTime(nil, at.UnixMicro())), at.UTC().Format("2006-01-02T15:04:05.000000Z")
		if got != want {
			t.Fatalf("%d is %s, want %s", at.UnixMicro(), got, want)
		}
	}
}
