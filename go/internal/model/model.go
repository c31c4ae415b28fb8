// SPDX-License-Identifier: Apache-2.0

// Package model holds a version of a model that is ready to run, the Session that it runs on, and what a request must say to
// name it.
package model

import (
	"context"
	"errors"

	inferencev1 "github.com/concord-inference/concord/go/gen/inference/v1"
	"github.com/concord-inference/concord/go/internal/batch"
	"github.com/concord-inference/concord/go/internal/fault"
	"github.com/concord-inference/concord/go/internal/feature"
	"github.com/concord-inference/concord/go/internal/generate"
	"github.com/concord-inference/concord/go/internal/tensor"
)

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
	// Device is where it runs: "cpu", also where it is empty, or "cuda:N". CPUNodes are the nodes of its graph that run on the CPU nevertheless. Near
	// tells whether a row's answer together is near enough to its answer alone; nil: only the very same is.
	Device   string
	CPUNodes int
	Near     func(together, alone *tensor.Tensor) bool
	// Generator generates the text of a model of kind generator, which has neither session nor queue; nil for all other kinds.
	Generator *generate.Engine

	session     Session
	queue       *batch.Queue
	traits      batch.Traits
	reason      string // why rows must not share an execution although the manifest says that they may
	outputIndex map[string]int
	allOutputs  []int // the index of each output; nobody changes it
	holders     holders
	lanes       lanes
}

// New makes a model. maxRows is the package's own limit of rows in one execution, 0 for none. Until Configure each request runs alone.
func New(id, version string, kind Kind, session Session, features *feature.Plan, batchable bool, maxRows int) *Model {
	m := &Model{
		ID: id, Version: version, Kind: kind, Features: features, Batchable: batchable, session: session,
		traits: batch.Traits{Joins: batchable, MaxRows: maxRows}, outputIndex: map[string]int{},
	}
	m.queue = batch.New(batch.Options{ModelID: id, Version: version, Run: session.Run, Fault: m.FaultOf})
	for i, spec := range session.Outputs() {
		m.outputIndex[spec.Name] = i
		m.allOutputs = append(m.allOutputs, i)
	}
	return m
}

// Queue is how requests come to the model; nil for a generator.
func (m *Model) Queue() *batch.Queue { return m.queue }

// Inputs are the graph's inputs, in its order; none for a generator, whose graph nobody else may run.
func (m *Model) Inputs() []tensor.Spec {
	if m.session == nil {
		return nil
	}
	if m.Limited != nil {
		return m.Limited
	}
	return m.session.Inputs()
}

// Outputs are the graph's outputs, in its order; none for a generator.
func (m *Model) Outputs() []tensor.Spec {
	if m.session == nil {
		return nil
	}
	return m.session.Outputs()
}

// Close frees the model once nothing runs it any more: a run that nobody waits for is ended, and ends a little later.
func (m *Model) Close() {
	if m.Generator != nil {
		m.Generator.Close()
		return
	}
	m.queue.Close()
	m.lanes.close()
	m.session.Close()
}

// Run is how tests and golden cases run a model: one request by its queue. Errors are faults.
func (m *Model) Run(ctx context.Context, inputs []tensor.Tensor, wanted []int) ([]tensor.Tensor, batch.Elapsed, error) {
	result := m.queue.One(ctx, batch.Part{Inputs: inputs, Wanted: wanted})
	if result.Err != nil {
		return nil, result.Elapsed, result.Err
	}
	return result.Outputs, result.Elapsed, nil
}

// FaultOf is the fault of an error of the session.
func (m *Model) FaultOf(err error) *fault.Fault {
	var large *TooLargeError
	if errors.As(err, &large) {
		return fault.AnswerTooLarge(large.Bytes, large.Most).At(m.ID, m.Version)
	}
	return m.Failed(err)
}

// Failed is the fault of a model that failed on an input.
func (m *Model) Failed(cause error) *fault.Fault {
	f := fault.New(fault.ModelExecutionFailed, "model %s version %s failed on this input: %s",
		fault.Quote(m.ID), fault.Shown(m.Version), fault.Scrub(cause.Error()))
	f.Cause = cause
	return f.At(m.ID, m.Version)
}
