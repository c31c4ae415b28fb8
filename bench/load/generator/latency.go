// SPDX-License-Identifier: Apache-2.0

package generator

import (
	"slices"
	"time"
)

// curve are the shares of the answers at which the distribution of latencies is told: denser where it is steep.
var curve = []float64{0, .01, .05, .1, .2, .3, .4, .5, .6, .7, .75, .8, .85, .9, .925, .95, .96, .97, .98, .985, .99, .9925, .995, .9975, .999, .9995, .9999, 1}

// quantile is the least latency that at least that share of the answers did not exceed, by rank, in milliseconds. Sorted; 0 of none.
func quantile(sorted []time.Duration, share float64) float64 {
	if len(sorted) == 0 {
		return 0
	}
	rank := int(share*float64(len(sorted)) + 0.9999999)
	return milliseconds(sorted[min(max(rank, 1), len(sorted))-1])
}

func milliseconds(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1e6 }

// Latency tells of a set of latencies, in milliseconds.
type Latency struct {
	Mean  float64      `json:"mean"`
	P50   float64      `json:"p50"`
	P90   float64      `json:"p90"`
	P99   float64      `json:"p99"`
	P999  float64      `json:"p99.9"`
	Max   float64      `json:"max"`
	Curve [][2]float64 `json:"curve"` // share of the answers, milliseconds
}

// summarise sorts the latencies.
func summarise(latencies []time.Duration) Latency {
	slices.Sort(latencies)
	l := Latency{
		P50: quantile(latencies, .5), P90: quantile(latencies, .9), P99: quantile(latencies, .99),
		P999: quantile(latencies, .999), Max: quantile(latencies, 1), Curve: [][2]float64{},
	}
	sum := time.Duration(0)
	for _, d := range latencies {
		sum += d
	}
	if len(latencies) > 0 {
		l.Mean = milliseconds(sum) / float64(len(latencies))
		for _, share := range curve {
			l.Curve = append(l.Curve, [2]float64{share, quantile(latencies, share)})
		}
	}
	return l
}
