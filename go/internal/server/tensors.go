// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"math"

	inferencev1 "github.com/concord-inference/concord/go/gen/inference/v1"
	"github.com/concord-inference/concord/go/internal/batch"
	"github.com/concord-inference/concord/go/internal/fault"
	"github.com/concord-inference/concord/go/internal/model"
	"github.com/concord-inference/concord/go/internal/tensor"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

// tensorInference is inference.v1.ModelInference.
type tensorInference struct {
	inferencev1.UnimplementedModelInferenceServer
	server *Server
}

func (in *tensorInference) Predict(ctx context.Context, request *inferencev1.PredictionRequest) (*inferencev1.PredictionResponse, error) {
	if in.server.draining.Load() {
		return nil, draining()
	}
	id := requestID(request.GetRequestId())
	response, f := in.answer(ctx, id, request)
	if f != nil {
		return nil, in.server.failed(id, f)
	}
	return response, nil
}

// BatchPredict runs each request by itself: its tensors may have many rows each.
func (in *tensorInference) BatchPredict(ctx context.Context, request *inferencev1.BatchPredictionRequest) (*inferencev1.BatchPredictionResponse, error) {
	if in.server.draining.Load() {
		return nil, draining()
	}
	requests := request.GetRequests()
	if f := in.server.checkBatch(len(requests)); f != nil {
		return nil, f
	}
	results := make([]*inferencev1.BatchPredictionResult, len(requests))
	total := 0
	for i, one := range requests {
		id := requestID(one.GetRequestId())
		response, f := in.answer(ctx, id, one)
		// No one reads the results of a call that has ended.
		if ctx.Err() != nil {
			return nil, fault.Ended(ctx)
		}
		result := &inferencev1.BatchPredictionResult{Result: &inferencev1.BatchPredictionResult_Response{Response: response}}
		if f != nil {
			result.Result = &inferencev1.BatchPredictionResult_Error{Error: statusOf(in.server.failed(id, f))}
		}
		results[i] = result
		// Told at once: what follows would be computed and held for nothing.
		total += protowire.SizeTag(1) + protowire.SizeBytes(proto.Size(result))
		if limit := in.server.options.MaxMessageBytes; total > limit {
			return nil, fault.AnswerTooLarge(int64(total), int64(limit))
		}
	}
	return &inferencev1.BatchPredictionResponse{Results: results}, nil
}

// answer takes one request from its names to its answer.
func (in *tensorInference) answer(ctx context.Context, id string, request *inferencev1.PredictionRequest) (*inferencev1.PredictionResponse, *fault.Fault) {
	if f := model.CheckName(request.GetModelId(), request.GetModelVersion()); f != nil {
		return nil, f
	}
	m, f := in.server.options.Repository.Resolve(request.GetModelId(), request.GetModelVersion())
	if f != nil {
		return nil, f
	}
	defer m.Release()
	if m.Kind == inferencev1.ModelKind_MODEL_KIND_GENERATOR {
		return nil, fault.New(fault.MethodNotSupported, "model %s is generator: it takes no tensors", fault.Quote(m.ID)).At(m.ID, m.Version)
	}
	inputs, wanted, f := model.DecodeTensors(m, request.GetInputs(), request.GetOutputNames())
	if f != nil {
		return nil, f.At(m.ID, m.Version)
	}
	limit := int64(in.server.options.MaxMessageBytes)
	result := m.Queue().One(ctx, batch.Part{Inputs: inputs, Wanted: wanted, Most: limit})
	if result.Err != nil {
		return nil, result.Err.At(m.ID, m.Version)
	}
	outputs, elapsed := result.Outputs, result.Elapsed
	response := &inferencev1.PredictionResponse{
		RequestId:    id,
		ModelVersion: m.Version,
		Outputs:      make(map[string]*inferencev1.Tensor, len(outputs)),
		Timing: &inferencev1.Timing{
			QueueMs: milliseconds(elapsed.Queue), ComputeMs: milliseconds(elapsed.Compute), BatchRows: int32(min(result.Rows, math.MaxInt32)),
		},
	}
	specs := m.Outputs()
	for at := range outputs {
		response.Outputs[specs[wanted[at]].Name] = tensor.ToWire(&outputs[at])
	}
	if size := int64(proto.Size(response)); size > limit {
		return nil, fault.AnswerTooLarge(size, limit).At(m.ID, m.Version)
	}
	return response, nil
}
