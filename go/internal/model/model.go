// SPDX-License-Identifier: Apache-2.0

// Package model holds a version of a model that is ready to run, the Session that it runs on, and what a request must say to
// name it.
package model

import (
	"context"
	"errors"
	"runtime"
	"time"

	inferencev1 "github.com/concord-inference/concord/go/gen/inference/v1"
	"github.com/concord-inference/concord/go/internal/fault"
	"github.com/concord-inference/concord/go/internal/feature"
	"github.com/concord-inference/concord/go/internal/tensor"
)

// ownMaxRows is the server's own limit of rows in one execution.
const ownMaxRows = 1024

// Kind is what a model takes and gives.
type Kind = inferencev1.ModelKind

// KindText is a kind in a message.
func KindText(kind Kind) string {
	switch kind {
	case inferencev1.ModelKind_MODEL_KIND_TABULAR:
		return "tabular"
	case inferencev1.ModelKind_MODEL_KIND_TENSOR:
		return "tensor"
	case inferencev1.ModelKind_MODEL_KIND_GENERATOR:
		return "generator"
	case inferencev1.ModelKind_MODEL_KIND_RECOMMENDER:
		return "recommender"
	default:
		return "unspecified"
	}
}

// Model is one version of a model, ready to run. Its fields do not change.
type Model struct {
	ID, Version string
	Kind        Kind
	// Features says how features become the graph's inputs; nil where the model takes tensors only, and then NoFeatures says why.
	Features   *feature.Plan
	NoFeatures string
	// Limited are the graph's inputs with the limits of their open axes; nil where the session's own say all.
	Limited []tensor.Spec
	// Batchable tells whether rows of several requests may share one execution.
	Batchable bool

	session     Session
	maxRows     int
	slots       chan struct{}
	outputIndex map[string]int
	allOutputs  []int // the index of each output; nobody changes it
	holders     holders
}

// New makes a model. maxRows is the package's own limit of rows in one execution, 0 for none.
func New(id, version string, kind Kind, session Session, features *feature.Plan, batchable bool, maxRows int) *Model {
	if maxRows == 0 || maxRows > ownMaxRows {
		maxRows = ownMaxRows
	}
	m := &Model{
		ID: id, Version: version, Kind: kind, Features: features, Batchable: batchable,
		session: session, maxRows: maxRows,
		// More runs at once than processors only make each slower.
		slots:       make(chan struct{}, runtime.GOMAXPROCS(0)),
		outputIndex: map[string]int{},
	}
	for i, spec := range session.Outputs() {
		m.outputIndex[spec.Name] = i
		m.allOutputs = append(m.allOutputs, i)
	}
	return m
}

// MaxRows is the most rows in one execution: at least 1, and 1 where the model is not batchable.
func (m *Model) MaxRows() int {
	if !m.Batchable {
		return 1
	}
	return m.maxRows
}

// Inputs are the graph's inputs, in its order.
func (m *Model) Inputs() []tensor.Spec {
	if m.Limited != nil {
		return m.Limited
	}
	return m.session.Inputs()
}

// Outputs are the graph's outputs, in its order.
func (m *Model) Outputs() []tensor.Spec { return m.session.Outputs() }

// Close frees the model at once. Nothing may run it any more.
func (m *Model) Close() { m.session.Close() }

// Elapsed says where the time of a run went.
type Elapsed struct {
	Queue, Compute time.Duration
}

// Run waits for one of the model's executors and runs. It does not run once ctx has ended. Errors are faults.
func (m *Model) Run(ctx context.Context, inputs []tensor.Tensor, wanted []int) ([]tensor.Tensor, Elapsed, error) {
	return m.RunWithin(ctx, inputs, wanted, 0)
}

// RunWithin is Run for an answer of at most that many bytes; 0 is no limit.
func (m *Model) RunWithin(ctx context.Context, inputs []tensor.Tensor, wanted []int, most int64) ([]tensor.Tensor, Elapsed, error) {
	begin := time.Now()
	if err := ctx.Err(); err != nil {
		return nil, Elapsed{}, Ended(err)
	}
	select {
	case m.slots <- struct{}{}:
	default:
		select {
		case m.slots <- struct{}{}:
		case <-ctx.Done():
			return nil, Elapsed{Queue: time.Since(begin)}, Ended(ctx.Err())
		}
	}
	defer func() { <-m.slots }()
	start := time.Now()
	outputs, err := m.session.Run(ctx, inputs, wanted, most)
	elapsed := Elapsed{Queue: start.Sub(begin), Compute: time.Since(start)}
	if err != nil {
		if ctx.Err() != nil {
			return nil, elapsed, Ended(ctx.Err())
		}
		var large *TooLargeError
		if errors.As(err, &large) {
			return nil, elapsed, AnswerTooLarge(large.Bytes, large.Most).At(m.ID, m.Version)
		}
		return nil, elapsed, m.Failed(err)
	}
	return outputs, elapsed, nil
}

// Failed is the fault of a model that failed on an input.
func (m *Model) Failed(cause error) *fault.Fault {
	f := fault.New(fault.ModelExecutionFailed, "model %s version %s failed on this input: %s",
		fault.Quote(m.ID), fault.Shown(m.Version), fault.Scrub(cause.Error()))
	f.Cause = cause
	return f.At(m.ID, m.Version)
}

// AnswerTooLarge is the fault of an answer that is larger than may be sent.
func AnswerTooLarge(bytes, limit int64) *fault.Fault {
	return fault.New(fault.OutputTooLarge, "the answer of %d bytes is larger than the limit of %d bytes", bytes, limit)
}

// Ended is the fault of a call whose context has ended.
func Ended(err error) *fault.Fault {
	if errors.Is(err, context.DeadlineExceeded) {
		return fault.New(fault.DeadlineExceeded, "the deadline passed")
	}
	return fault.New(fault.Cancelled, "the caller cancelled")
}
