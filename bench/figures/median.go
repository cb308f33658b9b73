package figures

import (
	"math"
	"slices"
	"time"
)

// spreadOf sorts values in place. The median of an even number is the mean of the middle two.
func spreadOf(values []float64) Spread {
	n := len(values)
	if n == 0 {
		return Spread{}
	}
	slices.Sort(values)
	return Spread{Median: (values[(n-1)/2] + values[n/2]) / 2, Min: values[0], Max: values[n-1], N: n}
}

// Percentile is the smallest of the spans that at least the share p (0 to 1) of them does not exceed, in milliseconds.
// It sorts spans in place; of none it is NaN, which no file can hold: whoever measured nothing has failed.
func Percentile(spans []time.Duration, p float64) float64 {
	if len(spans) == 0 {
		return math.NaN()
	}
	slices.Sort(spans)
	at := int(math.Ceil(p*float64(len(spans)))) - 1
	return float64(spans[min(max(at, 0), len(spans)-1)]) / float64(time.Millisecond)
}
