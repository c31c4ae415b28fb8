// SPDX-License-Identifier: Apache-2.0

package telemetry

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Generations is what is shown of the texts that a version generates. It watches the version's engine: its methods neither block nor allocate. Those of a
// version that has left count on unseen.
type Generations struct {
	runs             *runs // nil: nothing is shown
	tokens           prometheus.Counter
	first            prometheus.Observer
	running, waiting prometheus.Gauge
}

// Generations is what is shown of the version's texts, whose keys and values take so much memory at most.
func (v *Version) Generations(cacheBytes int64) *Generations {
	if v == nil {
		return &Generations{}
	}
	runs := v.running()
	v.mu.Lock()
	defer v.mu.Unlock()
	if runs == nil || v.left {
		return &Generations{}
	}
	m := &v.telemetry.metrics
	model, version := v.name.model, v.name.version
	m.cacheBytes.WithLabelValues(model, version).Set(float64(cacheBytes))
	return &Generations{
		runs: runs, tokens: m.tokens.WithLabelValues(model, version), first: m.first.WithLabelValues(model, version),
		running: m.texts.WithLabelValues(model, version, "running"), waiting: m.texts.WithLabelValues(model, version, "waiting"),
	}
}

// Waiting says that the generations that wait are so many more, or fewer.
func (g *Generations) Waiting(change int) {
	if g.runs != nil {
		g.waiting.Add(float64(change))
		g.runs.waiting.Add(float64(change))
	}
}

// Running says that the generations that have a slot are so many more, or fewer.
func (g *Generations) Running(change int) {
	if g.runs != nil {
		g.running.Add(float64(change))
	}
}

// Began says that a generation has its slot after that wait.
func (g *Generations) Began(wait time.Duration) {
	if g.runs != nil {
		g.runs.queue.Observe(wait.Seconds())
	}
}

// Ran says that an execution has ended that so many generations shared.
func (g *Generations) Ran(rows int) {
	if g.runs != nil {
		g.runs.rows.Observe(float64(rows))
	}
}

// First says that a generation has its first token, so long after its request came.
func (g *Generations) First(after time.Duration) {
	if g.runs != nil {
		g.first.Observe(after.Seconds())
	}
}

// Token says that a token was generated.
func (g *Generations) Token() {
	if g.runs != nil {
		g.tokens.Inc()
	}
}

// Ended says that a generation which had a slot has ended, and how long the executions took that it had a part in.
func (g *Generations) Ended(compute time.Duration) {
	if g.runs != nil {
		g.runs.compute.Observe(compute.Seconds())
	}
}
