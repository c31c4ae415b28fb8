// SPDX-License-Identifier: Apache-2.0

package generator

import (
	"errors"
	"sync/atomic"
	"testing"
	"time"
)

func TestQuantiles(t *testing.T) {
	var latencies []time.Duration
	for i := 1000; i >= 1; i-- {
		latencies = append(latencies, time.Duration(i)*time.Millisecond)
	}
	l := summarise(latencies)
	if l.P50 != 500 || l.P90 != 900 || l.P99 != 990 || l.P999 != 999 || l.Max != 1000 || l.Mean != 500.5 {
		t.Errorf("got %+v", l)
	}
	if first, last := l.Curve[0], l.Curve[len(l.Curve)-1]; first != [2]float64{0, 1} || last != [2]float64{1, 1000} {
		t.Errorf("the curve goes from %v to %v", first, last)
	}
	for i := 1; i < len(l.Curve); i++ {
		if l.Curve[i][0] <= l.Curve[i-1][0] || l.Curve[i][1] < l.Curve[i-1][1] {
			t.Errorf("the curve falls at %v", l.Curve[i])
		}
	}
	if one := summarise([]time.Duration{2 * time.Millisecond}); one.P50 != 2 || one.P999 != 2 {
		t.Errorf("of one: %+v", one)
	}
	if none := summarise(nil); none.P50 != 0 || none.Mean != 0 || len(none.Curve) != 0 {
		t.Errorf("of none: %+v", none)
	}
}

func TestAccount(t *testing.T) {
	r := Result{Requests: 4000}
	start := time.Unix(0, 0)
	r.account(used{1, 2, 10, start}, used{3, 2.5, 13, start.Add(2 * time.Second)})
	if r.Throughput != 2000 || r.ServerCPUSeconds != 2 || r.CPUPer1000 != 0.5 || r.ClientCPUSeconds != 0.5 || r.OtherCPUSeconds != 0.5 {
		t.Errorf("got %+v", r)
	}
	none := Result{}
	none.account(used{at: start}, used{at: start})
	if none.Throughput != 0 || none.CPUPer1000 != 0 {
		t.Errorf("of nothing: %+v", none)
	}
}

func TestFailuresAreCountedAndNotTimed(t *testing.T) {
	var looked atomic.Int64
	right := func(look bool) error {
		if look {
			looked.Add(1)
		}
		time.Sleep(time.Millisecond)
		return nil
	}
	wrong := func(bool) error { return errors.New("no") }
	r := (&Plan{Callers: []Caller{right, wrong}, Measured: 50 * time.Millisecond}).Run()
	if r.Errors == 0 || r.FirstError != "no" || looked.Load() == 0 {
		t.Errorf("got %d errors, %q, %d answers looked at", r.Errors, r.FirstError, looked.Load())
	}
}

// TestNoOmission stalls the only caller once: in an open loop all who should have asked meanwhile have waited.
func TestNoOmission(t *testing.T) {
	const stall = 200 * time.Millisecond
	var asked atomic.Int64
	caller := func(bool) error {
		if asked.Add(1) == 1 {
			time.Sleep(stall)
		}
		return nil
	}
	r := (&Plan{Callers: []Caller{caller}, Rate: 1000, Measured: 400 * time.Millisecond}).Run()
	late := 0
	for _, point := range r.Latency.Curve {
		if point[1] >= 50 {
			late++
		}
	}
	if late < 3 || r.Latency.Max < milliseconds(stall) {
		t.Errorf("one stall of %v shows in %d points of the curve only: %v", stall, late, r.Latency.Curve)
	}
	if r.NotSent != 0 || r.Errors != 0 {
		t.Errorf("%d not sent, %d errors", r.NotSent, r.Errors)
	}
}
