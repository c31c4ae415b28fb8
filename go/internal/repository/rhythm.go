// SPDX-License-Identifier: Apache-2.0

package repository

import "time"

const (
	glanceAfter = 25 * time.Millisecond // from a change, or from the last glance, to a glance
	settleAfter = time.Second           // between two scans while something changes, where the period is longer
	glances     = 2                     // after a change: a version is loaded when two have found it the same
	scans       = 2                     // after a change, at the quick pace: so many make new files settled and missing ones gone
	restShare   = 10                    // glances take no more than one part in so many of the time
)

// rhythm decides when a repository is scanned and when it is only glanced at. It has no clock: callers say what time it is.
type rhythm struct {
	period       time.Duration // between scans where nothing changes; 0: never
	scan, glance time.Time     // when the next is due
	scansLeft    int           // of those at the quick pace
	glancesLeft  int
}

func newRhythm(period time.Duration, now time.Time) rhythm {
	return rhythm{period: period, scan: now.Add(period)}
}

// changed says that something in the directory has changed. However often it is said, what is due stays due.
func (r *rhythm) changed(now time.Time) {
	if r.glancesLeft == 0 {
		r.glance = now.Add(glanceAfter)
	}
	r.glancesLeft = glances
	if next := now.Add(r.pace()); r.scansLeft == 0 && next.Before(r.scan) {
		r.scan = next
	}
	r.scansLeft = scans
}

// next is when something is due, and whether that is a scan rather than a glance.
func (r *rhythm) next() (at time.Time, scan bool) {
	if r.glancesLeft > 0 && r.glance.Before(r.scan) {
		return r.glance, false
	}
	return r.scan, true
}

// scanned and glanced say that what was due is done.
func (r *rhythm) scanned(now time.Time) {
	r.scansLeft = max(0, r.scansLeft-1)
	if r.scansLeft > 0 {
		r.scan = now.Add(r.pace())
	} else {
		r.scan = now.Add(r.period)
	}
}

func (r *rhythm) glanced(now time.Time, took time.Duration) {
	r.glancesLeft--
	r.glance = now.Add(max(glanceAfter, restShare*took))
}

func (r *rhythm) pace() time.Duration { return min(r.period, settleAfter) }
