// SPDX-License-Identifier: Apache-2.0

package model

import (
	"time"

	inferencev1 "github.com/concord-inference/concord/go/gen/inference/v1"
	"github.com/concord-inference/concord/go/internal/batch"
)

// Prefer says what the model's package and its graph say of how it runs: the manifest's policy, and whether every axis 0 is open although no manifest
// says what that means. It is called before anybody else has the model.
func (m *Model) Prefer(policy batch.Policy, open bool) {
	m.traits.Policy, m.traits.MayJoin = policy, open
}

// Apply makes the model run as the settings say, from now on; who waits stays.
func (m *Model) Apply(settings batch.Settings) {
	if m.Generator != nil {
		m.applyGenerator(settings)
		return
	}
	typical := time.Duration(0)
	if len(m.traits.Times) > 0 {
		typical = m.traits.Times[0].Took
	}
	m.queue.Apply(batch.Choose(m.traits, settings), typical)
}

// Execution is how the model runs, as the catalog shows it.
func (m *Model) Execution() *inferencev1.Execution {
	if m.Generator != nil {
		return m.generatorExecution()
	}
	setup := m.queue.Setup()
	device := m.Device
	if device == "" {
		device = "cpu"
	}
	shown := &inferencev1.Execution{
		Policy:            setup.Policy,
		Source:            setup.Source,
		Executors:         int32(setup.Executors),
		MaxBatchRows:      int32(setup.MaxRows),
		MaxDelayMs:        int32(setup.MaxDelay.Milliseconds()),
		MaxQueueRows:      int32(setup.MaxQueueRows),
		Device:            device,
		CpuNodes:          int32(m.CPUNodes),
		UnbatchableReason: m.reason,
	}
	for _, t := range m.traits.Times {
		shown.Measurements = append(shown.Measurements, &inferencev1.Measurement{
			Rows: int32(t.Rows), Microseconds: float64(t.Took.Nanoseconds()) / 1e3,
		})
	}
	return shown
}
