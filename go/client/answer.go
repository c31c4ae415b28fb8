// SPDX-License-Identifier: Apache-2.0

package client

import (
	"time"

	inferencev1 "github.com/concord-inference/concord/go/gen/inference/v1"
)

// Answer is the answer to one request.
type Answer struct {
	// ModelID is the model that was asked.
	ModelID string
	// ModelVersion is the number of the version that answered, also where a label or nothing was asked for.
	ModelVersion string
	// RequestID is the request's id, or the one that the server made.
	RequestID string
	// Predictions are numbers by name, exactly as the model gave them.
	Predictions map[string]float32
	// Outputs are what a float cannot hold, by name: bool, int64, float32, float64, string, []float32, []int64 (booleans as 0 and 1)
	// or []string; arrays are row-major.
	Outputs map[string]any
	// Latency is the server's total time.
	Latency time.Duration
	// Timing says where the time went.
	Timing Timing
	// Seed is the seed of a sampled generation, else 0.
	Seed uint64
	// Proto is the message that all this comes from.
	Proto *inferencev1.PredictResponse
}

// Timing says where the server spent the time of one request.
type Timing struct {
	// Queue is the time that the request waited for an executor.
	Queue time.Duration
	// Compute is the time of the execution that held it; requests executed together each report all of it.
	Compute time.Duration
	// BatchRows is the number of rows in that execution.
	BatchRows int
}

// Label is the output named "label", where classifiers put the class; nil where the model has no such output.
func (a *Answer) Label() any { return a.Outputs["label"] }

func newAnswer(model string, p *inferencev1.PredictResponse) *Answer {
	outputs := make(map[string]any, len(p.GetOutputs()))
	for name, value := range p.GetOutputs() {
		outputs[name] = readValue(value)
	}
	predictions := p.GetPredictions()
	if predictions == nil {
		predictions = map[string]float32{}
	}
	return &Answer{
		ModelID:      model,
		ModelVersion: p.GetModelVersion(),
		RequestID:    p.GetRequestId(),
		Predictions:  predictions,
		Outputs:      outputs,
		Latency:      milliseconds(p.GetLatencyMs()),
		Timing: Timing{
			Queue:     milliseconds(p.GetTiming().GetQueueMs()),
			Compute:   milliseconds(p.GetTiming().GetComputeMs()),
			BatchRows: int(p.GetTiming().GetBatchRows()),
		},
		Seed:  p.GetSeed(),
		Proto: p,
	}
}

func milliseconds(ms float32) time.Duration {
	return time.Duration(float64(ms) * float64(time.Millisecond))
}
