// SPDX-License-Identifier: Apache-2.0

package batch

import (
	"runtime"
	"time"

	inferencev1 "github.com/concord-inference/concord/go/gen/inference/v1"
)

// Policy is how requests come to executions.
type Policy = inferencev1.BatchingPolicy

// The policies.
const (
	Auto     = inferencev1.BatchingPolicy_BATCHING_POLICY_UNSPECIFIED // the server chooses
	Inline   = inferencev1.BatchingPolicy_BATCHING_POLICY_INLINE
	Direct   = inferencev1.BatchingPolicy_BATCHING_POLICY_DIRECT
	Adaptive = inferencev1.BatchingPolicy_BATCHING_POLICY_ADAPTIVE
)

// Source is who chose a policy.
type Source = inferencev1.PolicySource

// The sources.
const (
	Measured      = inferencev1.PolicySource_POLICY_SOURCE_MEASURED
	Manifest      = inferencev1.PolicySource_POLICY_SOURCE_MANIFEST
	Configuration = inferencev1.PolicySource_POLICY_SOURCE_CONFIGURATION
)

// Settings are what the configuration says of one model.
type Settings struct {
	Policy       Policy        // Auto leaves it to the manifest and the measurements
	MaxRows      int           // of several requests in one execution; 0 is 64
	MaxDelay     time.Duration // that an execution waits for more rows
	MaxQueueRows int           // that wait; 0 is 1024
	Executors    int           // 0: chosen with the policy

	// OwnPolicy and OwnMaxRows tell that the value was set for this very model: then it wins over the manifest's.
	OwnPolicy, OwnMaxRows bool
}

const (
	defaultMaxRows      = 64
	defaultMaxQueueRows = 1024
)

// Traits are what is known of a version, whatever the configuration says.
type Traits struct {
	// Joins tells that rows may share an execution: the manifest says so, and a try at load did not contradict.
	Joins bool
	// MayJoin tells that only the configuration can know whether rows may: there is no manifest, and every axis 0 is open.
	MayJoin bool
	// Policy is the manifest's; Auto where it has none.
	Policy Policy
	// MaxRows is the manifest's limit; 0 is none.
	MaxRows int
	// Times are what executions took at load, by ascending rows; empty where nothing was measured.
	Times []Time
}

// Time is what one execution took.
type Time struct {
	Rows int
	Took time.Duration // the median of a few
}

// Setup is how a version runs.
type Setup struct {
	Policy    Policy
	Source    Source
	Executors int // executions at once, at least 1
	// MaxRows is the most rows of several requests in one execution; 1 where they are not joined.
	MaxRows int
	// CallRows is the most rows of one call in one execution: what a batch brings at once runs together under every policy.
	CallRows     int
	MaxDelay     time.Duration
	MaxQueueRows int
}

const (
	// A hand-over from one goroutine to another and back costs about this under load: what saves less gains nothing from a batch.
	handOver = 10 * time.Microsecond
	// handling is about what receiving and answering a request takes of a processor.
	handling = 25 * time.Microsecond
	// tiny is up to where a run in the handler's own goroutine holds up nobody.
	tiny = 100 * time.Microsecond
	// least is the share of its time that a row must save in a batch: the first of a batch pays for it with a wait.
	least = 0.2
	// An inline run may lose its processor; more places than processors keep the others from waiting for it.
	inlinePlaces = 4
)

// Choose is how a version runs under these settings: what is set for this very model, else what its manifest says, else what is set for all
// models, else what its measurements say. Where rows may not be joined, Direct stands for Adaptive.
func Choose(t Traits, s Settings) Setup {
	setup := Setup{Policy: best(t), Source: Measured, MaxQueueRows: s.MaxQueueRows, MaxRows: 1, CallRows: 1}
	switch {
	case s.Policy != Auto && s.OwnPolicy:
		setup.Policy, setup.Source = s.Policy, Configuration
	case t.Policy != Auto:
		setup.Policy, setup.Source = t.Policy, Manifest
	case s.Policy != Auto:
		setup.Policy, setup.Source = s.Policy, Configuration
	}
	joins := t.Joins || t.MayJoin && s.OwnPolicy && setup.Policy == Adaptive
	if setup.Policy == Adaptive && !joins {
		setup.Policy = Direct
	}
	if joins {
		setup.CallRows = s.MaxRows
		if setup.CallRows == 0 {
			setup.CallRows = defaultMaxRows
		}
		if t.MaxRows > 0 && !s.OwnMaxRows {
			setup.CallRows = min(setup.CallRows, t.MaxRows)
		}
	}
	if setup.MaxQueueRows == 0 {
		setup.MaxQueueRows = defaultMaxQueueRows
	}
	cores := runtime.GOMAXPROCS(0)
	setup.Executors = cores
	switch setup.Policy {
	case Adaptive:
		setup.MaxRows, setup.MaxDelay = setup.CallRows, s.MaxDelay
		setup.Executors = cores
		if !heavy(t) {
			// One processor is left to those who receive and answer: executors on all of them would only halve each other's batches.
			setup.Executors = max(1, cores-1)
		}
	case Inline:
		setup.Executors = inlinePlaces * cores
	}
	if s.Executors > 0 {
		setup.Executors = s.Executors
	}
	return setup
}

// heavy tells whether a row in a batch takes much more of a processor than receiving and answering it: then all processors are for executors.
func heavy(t Traits) bool {
	if len(t.Times) < 2 {
		return false
	}
	last := t.Times[len(t.Times)-1]
	return last.Took/time.Duration(last.Rows) >= 4*handling
}

// best is the policy that the measurements speak for.
func best(t Traits) Policy {
	if len(t.Times) == 0 || t.Times[0].Rows != 1 {
		return Direct
	}
	alone := t.Times[0].Took
	if t.Joins {
		saved := time.Duration(0)
		for _, m := range t.Times[1:] {
			saved = max(saved, alone-m.Took/time.Duration(m.Rows))
		}
		if saved >= max(handOver, time.Duration(least*float64(alone))) {
			return Adaptive
		}
	}
	if alone <= tiny {
		return Inline
	}
	return Direct
}
