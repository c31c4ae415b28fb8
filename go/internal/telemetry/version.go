// SPDX-License-Identifier: Apache-2.0

package telemetry

import (
	"sync"
	"sync/atomic"
	"time"

	inferencev1 "github.com/concord-inference/concord/go/gen/inference/v1"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/codes"
)

// Version is what is shown of one version of a model. It watches the version's queue: Queued, Began and Ran neither block nor allocate. Its series
// are looked up once each and kept; those of a version that has left count on unseen.
type Version struct {
	telemetry *Telemetry
	name      versionName

	runs  atomic.Pointer[runs]
	calls atomic.Pointer[[]*calls] // by Method.index, with gaps; copied at each change, under mu

	mu   sync.Mutex
	left bool // nothing may be added to the registry any more
}

// runs are the series of a version's executions.
type runs struct {
	queue, compute, rows prometheus.Observer
	waiting              prometheus.Gauge
}

// calls are the series of one method's calls that a version answered.
type calls struct {
	duration prometheus.Observer
	ended    [codeCount]atomic.Pointer[prometheus.Counter]
}

// Queued says that the rows that wait are so many more, or fewer.
func (v *Version) Queued(rows int) {
	if r := v.running(); r != nil {
		r.waiting.Add(float64(rows))
	}
}

// Began says that a request begins to run after that wait.
func (v *Version) Began(wait time.Duration) {
	if r := v.running(); r != nil {
		r.queue.Observe(wait.Seconds())
	}
}

// Ran says that an execution with so many requests and rows has ended.
func (v *Version) Ran(requests, rows int, compute time.Duration) {
	r := v.running()
	if r == nil {
		return
	}
	r.rows.Observe(float64(rows))
	seconds := compute.Seconds()
	for range requests {
		r.compute.Observe(seconds)
	}
}

// running is the series of executions, or nil where the version left before it had any.
func (v *Version) running() *runs {
	if v == nil {
		return nil
	}
	if r := v.runs.Load(); r != nil {
		return r
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if r := v.runs.Load(); r != nil || v.left {
		return r
	}
	m := &v.telemetry.metrics
	r := &runs{
		queue:   m.stage.WithLabelValues("queue", v.name.model, v.name.version),
		compute: m.stage.WithLabelValues("compute", v.name.model, v.name.version),
		rows:    m.batchRows.WithLabelValues(v.name.model, v.name.version),
		waiting: m.queueRows.WithLabelValues(v.name.model, v.name.version),
	}
	v.runs.Store(r)
	return r
}

// ended counts a call of a method that ended; false is that the version has left and has no series for it.
func (v *Version) ended(method *Method, code codes.Code, took time.Duration) bool {
	c := v.callsOf(method)
	if c == nil {
		return false
	}
	c.duration.Observe(took.Seconds())
	if counter := c.ended[code].Load(); counter != nil {
		(*counter).Inc()
		return true
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.left {
		return true // its duration counted unseen
	}
	counter := v.telemetry.metrics.requests.WithLabelValues(method.service, method.name, v.name.model, v.name.version, codeNames[code])
	c.ended[code].Store(&counter)
	counter.Inc()
	return true
}

// callsOf is the series of a method, or nil where the version left before it had any.
func (v *Version) callsOf(method *Method) *calls {
	if all := v.calls.Load(); all != nil && method.index < len(*all) && (*all)[method.index] != nil {
		return (*all)[method.index]
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	var all []*calls
	if old := v.calls.Load(); old != nil {
		all = *old
	}
	if method.index < len(all) && all[method.index] != nil {
		return all[method.index]
	}
	if v.left {
		return nil
	}
	more := make([]*calls, max(len(all), method.index+1))
	copy(more, all)
	more[method.index] = &calls{duration: v.telemetry.metrics.duration.WithLabelValues(method.name, v.name.model, v.name.version)}
	v.calls.Store(&more)
	return more[method.index]
}

func (v *Version) setState(state inferencev1.ModelState) {
	if state == inferencev1.ModelState_MODEL_STATE_READY {
		v.running() // seen at 0 before the first request
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.left {
		return
	}
	for each, label := range states {
		value := 0.0
		if each == state {
			value = 1
		}
		v.telemetry.metrics.modelState.WithLabelValues(v.name.model, v.name.version, label).Set(value)
	}
}

// leave takes all series of the version out of the registry, for good.
func (v *Version) leave() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.left = true
	m, labels := &v.telemetry.metrics, prometheus.Labels{"model": v.name.model, "version": v.name.version}
	m.requests.DeletePartialMatch(labels)
	m.duration.DeletePartialMatch(labels)
	m.stage.DeletePartialMatch(labels)
	m.batchRows.DeletePartialMatch(labels)
	m.queueRows.DeletePartialMatch(labels)
	m.tokens.DeletePartialMatch(labels)
	m.first.DeletePartialMatch(labels)
	m.texts.DeletePartialMatch(labels)
	m.cacheBytes.DeletePartialMatch(labels)
	m.modelState.DeletePartialMatch(labels)
}
