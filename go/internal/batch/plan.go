// SPDX-License-Identifier: Apache-2.0

package batch

import "time"

// Waiting is a request in a queue.
type Waiting struct {
	Rows     int       // at least 1
	Shape    string    // requests of equal shapes may share an execution
	Since    time.Time // when it came
	Deadline time.Time // from when on nobody wants its answer; zero where there is none
	Gone     bool      // its caller has gone

	work *work
	left bool // its caller took it out already
}

// Limits bound an execution.
type Limits struct {
	MaxRows  int           // of several requests, at least 1
	MaxDelay time.Duration // how long an execution that is not full waits for more
}

// Drop is a request that never runs.
type Drop struct {
	Index     int  // in the queue
	Cancelled bool // else its deadline has passed
}

// Decision is what is to be done with a queue now.
type Decision struct {
	Drops []Drop    // in the queue's order
	Run   []int     // the indices of one execution's requests, in the queue's order; empty where none is due
	Wait  time.Time // where none is due: when the first will be, unless the queue changes; zero where nobody waits
}

// Plan says what to drop and what to run of a queue, oldest first. conformance/batch has its rules and proves them for both servers.
func Plan(queue []*Waiting, now time.Time, limits Limits) Decision {
	var d Decision
	var open batches
	for i, w := range queue {
		switch {
		case w.Gone:
			d.Drops = append(d.Drops, Drop{Index: i, Cancelled: true})
		case !w.Deadline.IsZero() && !w.Deadline.After(now):
			d.Drops = append(d.Drops, Drop{Index: i})
		default:
			open.of(w, limits).offer(i, w, limits)
		}
	}
	for _, b := range open.list {
		if b.full || b.urgent || !b.end.After(now) {
			d.Run = b.members
			return d
		}
		if d.Wait.IsZero() || b.end.Before(d.Wait) {
			d.Wait = b.end
		}
	}
	return d
}

// group is the oldest requests of one shape, as many as fit together.
type group struct {
	shape   string
	members []int
	rows    int
	end     time.Time // when its oldest request has waited long enough
	full    bool      // nobody joins any more
	urgent  bool      // a member would not live through the wait
}

func (g *group) offer(i int, w *Waiting, limits Limits) {
	if g.full {
		return
	}
	if len(g.members) > 0 && g.rows+w.Rows > limits.MaxRows {
		g.full = true // who comes later must not overtake
		return
	}
	g.members = append(g.members, i)
	g.rows += w.Rows
	g.full = g.rows >= limits.MaxRows
	g.urgent = g.urgent || !w.Deadline.IsZero() && !w.Deadline.After(g.end)
}

// batches are the groups of a queue, the one with the oldest request first.
type batches struct {
	list    []*group
	byShape map[string]*group // once there are several
}

// few is how many groups are searched faster than a map.
const few = 4

func (b *batches) of(w *Waiting, limits Limits) *group {
	if b.byShape != nil {
		if g := b.byShape[w.Shape]; g != nil {
			return g
		}
	} else {
		for _, g := range b.list {
			if g.shape == w.Shape {
				return g
			}
		}
	}
	g := &group{shape: w.Shape, end: w.Since.Add(limits.MaxDelay)}
	b.list = append(b.list, g)
	if b.byShape == nil && len(b.list) > few {
		b.byShape = make(map[string]*group, 2*few)
		for _, g := range b.list {
			b.byShape[g.shape] = g
		}
	} else if b.byShape != nil {
		b.byShape[w.Shape] = g
	}
	return g
}
