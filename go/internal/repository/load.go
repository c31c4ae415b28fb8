// SPDX-License-Identifier: Apache-2.0

package repository

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	inferencev1 "github.com/concord-inference/concord/go/gen/inference/v1"
	modelpackagev1 "github.com/concord-inference/concord/go/gen/modelpackage/v1"
	"github.com/concord-inference/concord/go/internal/admission"
	"github.com/concord-inference/concord/go/internal/batch"
	"github.com/concord-inference/concord/go/internal/fault"
	"github.com/concord-inference/concord/go/internal/feature"
	"github.com/concord-inference/concord/go/internal/model"
	"github.com/concord-inference/concord/go/internal/tensor"
)

// loadVersion verifies a version, makes its session and lets it prove itself. The error is for callers: no path is in it.
func (r *Repository) loadVersion(ctx context.Context, id, number string) (*model.Model, *About, error) {
	root, err := os.OpenRoot(r.directory)
	if err != nil {
		return nil, nil, plain(err)
	}
	defer root.Close()
	c, err := read(root, id+"/"+number, r.options.RequireManifest)
	if err != nil {
		return nil, nil, err
	}
	kind, err := kindOf(c)
	if err != nil {
		return nil, nil, err
	}
	about := &About{}
	if c.manifest != nil {
		about = &About{
			Description: c.manifest.GetDescription(), Verified: true, Parity: c.manifest.GetParity(), Quality: c.manifest.GetQuality(),
			MaxBatchRows: c.manifest.GetBatching().GetMaxBatchRows(),
		}
	}
	if kind == inferencev1.ModelKind_MODEL_KIND_GENERATOR {
		m, err := r.loadGenerator(ctx, id, number, c)
		if err != nil {
			return nil, nil, err
		}
		about.ReadyTime = time.Now()
		return m, about, nil
	}
	if err := r.admit(ctx, admission.Model{Graph: c.graph, Files: c.external, Sums: c.sums}); err != nil {
		return nil, nil, err
	}
	load := r.options.Load
	if r.options.LoaderOf != nil {
		load = r.options.LoaderOf(id)
	}
	session, err := load(c.graph, c.external)
	if err != nil {
		return nil, nil, errors.New(fault.Scrub(err.Error()))
	}
	// Until a model owns it.
	c.graph, c.external = nil, nil
	m, err := assemble(id, number, kind, c.manifest, session)
	if err != nil {
		session.Close()
		return nil, nil, err
	}
	on, err := deviceClasses(c.manifest)
	if err != nil {
		m.Close()
		return nil, nil, err
	}
	r.place(m, session, on)
	if m.Device == cpu {
		on = nil
	}
	if c.manifest != nil {
		parts, err := selfTest(ctx, m, c.golden, on)
		if err != nil {
			m.Close()
			return nil, nil, err
		}
		m.Prove(ctx, parts)
	}
	if r.options.Watch != nil {
		m.Queue().Watch(r.options.Watch(id, number))
	}
	m.Apply(r.batching(id))
	about.ReadyTime = time.Now()
	return m, about, nil
}

func (r *Repository) admit(ctx context.Context, m admission.Model) error {
	if r.options.Admit == nil {
		return nil
	}
	return r.options.Admit(ctx, m)
}

// kindOf is the kind of a package, where it is served; a bare model, which has no manifest, generates text where it has a text generator's settings,
// and else takes tensors.
func kindOf(c *contents) (model.Kind, error) {
	if c.manifest == nil {
		if c.files != nil {
			return inferencev1.ModelKind_MODEL_KIND_GENERATOR, nil
		}
		return inferencev1.ModelKind_MODEL_KIND_TENSOR, nil
	}
	switch kind := c.manifest.GetKind(); kind {
	case inferencev1.ModelKind_MODEL_KIND_TABULAR, inferencev1.ModelKind_MODEL_KIND_TENSOR, inferencev1.ModelKind_MODEL_KIND_GENERATOR:
		return kind, nil
	case inferencev1.ModelKind_MODEL_KIND_RECOMMENDER:
		return 0, fmt.Errorf("kind %s is not served here", model.KindText(kind))
	default:
		return 0, errors.New("kind: expected a kind, got nothing")
	}
}

// assemble holds the manifest against the graph.
func assemble(id, number string, kind model.Kind, manifest *modelpackagev1.Manifest, session model.Session) (*model.Model, error) {
	outputs := session.Outputs()
	inputs, err := feature.Limit(manifest.GetAxisLimits(), session.Inputs())
	if err != nil {
		return nil, err
	}
	batching := manifest.GetBatching()
	if batching.GetBatchable() {
		if err := checkBatchable(inputs, outputs); err != nil {
			return nil, err
		}
	} else if batching.GetPolicy() == batch.Adaptive {
		return nil, errors.New("batching: policy ADAPTIVE: expected batchable, got a model that is not")
	}
	var plan *feature.Plan
	noFeatures := ""
	if kind == inferencev1.ModelKind_MODEL_KIND_TABULAR {
		if plan, err = feature.FromManifest(manifest, inputs, outputs); err != nil {
			return nil, err
		}
	} else {
		if len(manifest.GetFeatures())+len(manifest.GetPredictions())+len(manifest.GetOutputs()) > 0 {
			return nil, errors.New("kind tensor: expected no features, predictions and outputs in the manifest")
		}
		if plan, err = feature.FromGraph(inputs, outputs); err != nil {
			noFeatures = err.Error()
		}
	}
	m := model.New(id, number, kind, session, plan, batching.GetBatchable(), int(batching.GetMaxBatchRows()))
	m.Prefer(batching.GetPolicy(), manifest == nil && len(inputs) > 0 && checkBatchable(inputs, outputs) == nil)
	m.NoFeatures = noFeatures
	m.Limited = inputs
	return m, nil
}

// checkBatchable refuses a claim that the graph contradicts.
func checkBatchable(inputs, outputs []tensor.Spec) error {
	for _, side := range []struct {
		name  string
		specs []tensor.Spec
	}{{"input", inputs}, {"output", outputs}} {
		for _, spec := range side.specs {
			if !spec.Unranked && (len(spec.Shape) == 0 || spec.Shape[0] != -1) {
				return fmt.Errorf("batching: expected an open axis 0, got %s %s, %s", side.name, fault.Quote(spec.Name), spec.Describe())
			}
		}
	}
	return nil
}
