// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"slices"

	inferencev1 "github.com/concord-inference/concord/go/gen/inference/v1"
	"github.com/concord-inference/concord/go/internal/fault"
	"github.com/concord-inference/concord/go/internal/generate"
	"github.com/concord-inference/concord/go/internal/model"
	"github.com/concord-inference/concord/go/internal/repository"
	"github.com/concord-inference/concord/go/internal/tensor"
	"google.golang.org/protobuf/types/known/timestamppb"
)

const (
	defaultPageSize = 100
	maxPageSize     = 1000
)

// catalog is inference.v1.ModelCatalogService.
type catalog struct {
	inferencev1.UnimplementedModelCatalogServiceServer
	server *Server
}

func (c *catalog) ListModels(_ context.Context, request *inferencev1.ListModelsRequest) (*inferencev1.ListModelsResponse, error) {
	if c.server.draining.Load() {
		return nil, draining()
	}
	size := int(request.GetPageSize())
	if size < 0 || size > maxPageSize {
		return nil, fault.Invalid(fault.RequestMalformed, "page_size", "expected 0 to %d, got %d", maxPageSize, size)
	}
	if size == 0 {
		size = defaultPageSize
	}
	// A token is the id of the last model given, so it stays good when models come and go.
	after := request.GetPageToken()
	if after != "" && !model.IsID(after) {
		return nil, fault.Invalid(fault.RequestMalformed, "page_token", "expected the next_page_token of an answer, got %s", fault.Quote(after))
	}
	entries := c.server.options.Repository.Entries()
	if from := slices.IndexFunc(entries, func(e *repository.Entry) bool { return e.ID > after }); from >= 0 {
		entries = entries[from:]
	} else {
		entries = nil
	}
	response := &inferencev1.ListModelsResponse{}
	if len(entries) > size {
		entries = entries[:size]
		response.NextPageToken = entries[size-1].ID
	}
	for _, entry := range entries {
		response.Models = append(response.Models, describe(entry))
	}
	return response, nil
}

func (c *catalog) GetModel(_ context.Context, request *inferencev1.GetModelRequest) (*inferencev1.GetModelResponse, error) {
	if c.server.draining.Load() {
		return nil, draining()
	}
	if f := model.CheckID(request.GetModelId()); f != nil {
		return nil, f
	}
	entry, f := c.server.options.Repository.Entry(request.GetModelId())
	if f != nil {
		return nil, f
	}
	return &inferencev1.GetModelResponse{Model: describe(entry)}, nil
}

func describe(entry *repository.Entry) *inferencev1.Model {
	described := &inferencev1.Model{ModelId: entry.ID, DefaultVersion: entry.DefaultVersion(), Labels: entry.Labels}
	for i := range entry.Versions {
		described.Versions = append(described.Versions, describeVersion(&entry.Versions[i]))
	}
	return described
}

func describeVersion(version *repository.Version) *inferencev1.ModelVersion {
	described := &inferencev1.ModelVersion{Version: version.Number, State: version.State}
	if version.Fault != nil {
		described.Error = statusOf(version.Fault)
	}
	m, about := version.Model, version.About
	if m == nil {
		return described
	}
	described.Kind = m.Kind
	described.Description = about.Description
	if m.Features != nil {
		described.Features, described.Predictions, described.Outputs = m.Features.Features(), m.Features.Predictions(), m.Features.Outputs()
	}
	if m.Generator != nil {
		described.Features, described.Outputs = generate.Features(), generate.Outputs()
	}
	described.InputTensors, described.OutputTensors = tensorSpecs(m.Inputs()), tensorSpecs(m.Outputs())
	described.Verified = about.Verified
	described.Parity = about.Parity
	described.Quality = about.Quality
	described.Batchable = m.Batchable
	if version.State == repository.Ready {
		described.Execution = m.Execution()
	}
	described.MaxBatchRows = about.MaxBatchRows
	described.ReadyTime = timestamppb.New(about.ReadyTime)
	return described
}

func tensorSpecs(specs []tensor.Spec) []*inferencev1.TensorSpec {
	list := make([]*inferencev1.TensorSpec, len(specs))
	for i := range specs {
		list[i] = &inferencev1.TensorSpec{Name: specs[i].Name, Dtype: inferencev1.DataType(specs[i].DType), Shape: specs[i].Shape, MaxShape: specs[i].Max}
	}
	return list
}
