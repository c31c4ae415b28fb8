// SPDX-License-Identifier: Apache-2.0

package model

import (
	"context"
	"sync"
	"time"

	"github.com/concord-inference/concord/go/internal/tensor"
)

// Lane is memory for one row of a session's inputs, and a run of just these that allocates next to nothing. One goroutine at a time has it, but for
// Terminate.
type Lane interface {
	// Row are the inputs, to be written before Run.
	Row() []tensor.Tensor
	// Run is Session.Run without a context. The outputs are the lane's own memory until its next Run.
	Run(most int64) ([]tensor.Tensor, error)
	// Terminate ends the run under way, and every later one, as soon as ONNX Runtime can.
	Terminate()
	// Close frees the lane. Nothing may run on it.
	Close()
}

// LaneMaker is a Session that has lanes.
type LaneMaker interface {
	// Lane makes a lane for inputs of these shapes and the outputs of these indices; nil where the session has none for them.
	Lane(shapes [][]int64, wanted []int) (Lane, error)
}

const (
	maxLaneBytes = 64 << 10 // of a row: a larger one is not worth keeping memory for
	// A run this long is looked after: it ends when its caller has gone, or shortly before his deadline, so that he still hears so.
	laneTick   = 10 * time.Millisecond
	laneMargin = 5 * time.Millisecond
	// With nothing to look after for so long, nobody looks any more.
	laneIdleTicks = 50
)

// Ride is a lane in use, for one request.
type Ride struct {
	lane Lane
	of   *lanes

	mu         sync.Mutex
	ctx        context.Context // of the run under way; nil where there is none
	began      time.Time
	deadline   time.Time // zero for none
	terminated bool
}

// lanes are those of one model.
type lanes struct {
	mu       sync.Mutex
	free     []*Ride
	all      []*Ride
	watching bool
	closed   bool
	none     bool // the model has no lanes
}

// Ride takes a lane; nil where the model has none. It is the caller's until Done. The model must be held.
func (m *Model) Ride() *Ride {
	l := &m.lanes
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.none {
		return nil
	}
	var r *Ride
	if n := len(l.free); n > 0 {
		r = l.free[n-1]
		l.free = l.free[:n-1]
	} else if lane := m.newLane(); lane != nil {
		r = &Ride{lane: lane, of: l}
		l.all = append(l.all, r)
	} else {
		l.none = len(l.all) == 0
		return nil
	}
	if !l.watching {
		l.watching = true
		go l.watch()
	}
	return r
}

func (m *Model) newLane() Lane {
	maker, ok := m.session.(LaneMaker)
	if !ok || m.Features == nil {
		return nil
	}
	shapes := m.Features.RowShapes()
	if shapes == nil {
		return nil
	}
	total := int64(0)
	for i, spec := range m.session.Inputs() {
		n, ok := tensor.Elements(shapes[i])
		if !ok || n == 0 || n > maxLaneBytes {
			return nil
		}
		total += n * int64(spec.DType.Size())
	}
	if total > maxLaneBytes {
		return nil
	}
	lane, err := maker.Lane(shapes, m.Features.Wanted())
	if err != nil {
		return nil
	}
	return lane
}

// Row are the inputs, to be written before Run.
func (r *Ride) Row() []tensor.Tensor { return r.lane.Row() }

// Run runs the row. It ends early when ctx does, at the latest one tick later, or shortly before the deadline; the error is then
// context.Canceled or context.DeadlineExceeded.
func (r *Ride) Run(ctx context.Context, deadline time.Time, most int64) ([]tensor.Tensor, error) {
	now := time.Now()
	r.mu.Lock()
	r.ctx, r.began, r.deadline = ctx, now, deadline
	r.mu.Unlock()
	outputs, err := r.lane.Run(most)
	r.mu.Lock()
	r.ctx = nil
	terminated := r.terminated
	r.mu.Unlock()
	if terminated && err != nil {
		if ended := ctx.Err(); ended != nil {
			return nil, ended
		}
		return nil, context.DeadlineExceeded
	}
	return outputs, err
}

// Done gives the lane back.
func (r *Ride) Done() {
	l := r.of
	l.mu.Lock()
	defer l.mu.Unlock()
	if r.terminated { // nobody terminates it any more: it does not run
		r.lane.Close()
		for i, other := range l.all {
			if other == r {
				l.all = append(l.all[:i], l.all[i+1:]...)
				break
			}
		}
		return
	}
	l.free = append(l.free, r)
}

// watch looks after runs until none has been there for a while.
func (l *lanes) watch() {
	ticker := time.NewTicker(laneTick)
	defer ticker.Stop()
	idle := 0
	var riding []*Ride
	for now := range ticker.C {
		l.mu.Lock()
		riding = append(riding[:0], l.all...)
		free := len(l.free)
		if idle++; free < len(riding) {
			idle = 0
		}
		if l.closed || idle > laneIdleTicks {
			l.watching = false
			l.mu.Unlock()
			return
		}
		l.mu.Unlock()
		if free < len(riding) {
			for _, r := range riding {
				r.look(now)
			}
		}
	}
}

// look ends the run under way where nobody wants it any more.
func (r *Ride) look(now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ctx == nil || r.terminated || now.Sub(r.began) < laneTick/2 {
		return
	}
	if r.ctx.Err() != nil || !r.deadline.IsZero() && !now.Before(r.deadline.Add(-laneTick-laneMargin)) {
		r.terminated = true
		r.lane.Terminate()
	}
}

// close frees all lanes. None is in use.
func (l *lanes) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed, l.none = true, true
	for _, r := range l.all {
		r.lane.Close()
	}
	l.all, l.free = nil, nil
}
