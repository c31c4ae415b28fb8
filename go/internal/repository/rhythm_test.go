// SPDX-License-Identifier: Apache-2.0

package repository

import (
	"testing"
	"time"
)

func TestRhythm(t *testing.T) {
	start := time.Unix(1000, 0)
	at := func(ms int) time.Time { return start.Add(time.Duration(ms) * time.Millisecond) }
	r := newRhythm(time.Minute, start)
	want := func(ms int, scan bool) {
		t.Helper()
		if got, gotScan := r.next(); !got.Equal(at(ms)) || gotScan != scan {
			t.Errorf("got %v, %v, want %v ms, %v", got.Sub(start), gotScan, ms, scan)
		}
	}
	want(60_000, true)
	r.changed(at(100))
	want(125, false)
	r.changed(at(120)) // what is due stays due
	want(125, false)
	r.glanced(at(126), time.Millisecond)
	want(151, false)
	r.changed(at(140))
	want(151, false)
	r.glanced(at(152), 40*time.Millisecond) // slow: it takes a tenth of the time
	want(552, false)
	r.glanced(at(560), 0)
	want(1100, true)
	r.scanned(at(1101))
	want(2101, true)
	r.changed(at(1500))
	want(1525, false)
	r.glanced(at(1525), 0)
	r.glanced(at(1550), 0)
	want(2101, true)
	r.scanned(at(2101))
	want(3101, true)
	r.scanned(at(3101))
	want(63_101, true)

	r = newRhythm(5*time.Millisecond, start)
	r.changed(start)
	want(5, true) // a short period needs no glances
	r.scanned(at(5))
	want(10, true)
}
