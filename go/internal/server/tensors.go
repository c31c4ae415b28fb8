// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"math"

	inferencev1 "github.com/concord-inference/concord/go/gen/inference/v1"
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
		if err := ctx.Err(); err != nil {
			return nil, model.Ended(err)
		}
		result := &inferencev1.BatchPredictionResult{Result: &inferencev1.BatchPredictionResult_Response{Response: response}}
		if f != nil {
			result.Result = &inferencev1.BatchPredictionResult_Error{Error: statusOf(in.server.failed(id, f))}
		}
		results[i] = result
		// Told at once: what follows would be computed and held for nothing.
		total += protowire.SizeTag(1) + protowire.SizeBytes(proto.Size(result))
		if limit := in.server.options.MaxMessageBytes; total > limit {
			return nil, model.AnswerTooLarge(int64(total), int64(limit))
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
	outputs, elapsed, err := m.RunWithin(ctx, inputs, wanted, limit)
	if err != nil {
		return nil, fault.From(err).At(m.ID, m.Version)
	}
	response := &inferencev1.PredictionResponse{
		RequestId:    id,
		ModelVersion: m.Version,
		Outputs:      make(map[string]*inferencev1.Tensor, len(outputs)),
		Timing: &inferencev1.Timing{
			QueueMs: milliseconds(elapsed.Queue), ComputeMs: milliseconds(elapsed.Compute), BatchRows: rows(inputs),
		},
	}
	specs := m.Outputs()
	for at := range outputs {
		response.Outputs[specs[wanted[at]].Name] = tensor.ToWire(&outputs[at])
	}
	if size := int64(proto.Size(response)); size > limit {
		return nil, model.AnswerTooLarge(size, limit).At(m.ID, m.Version)
	}
	return response, nil
}

// rows is the length of the first input's axis 0, or 1 where there is none.
func rows(inputs []tensor.Tensor) int32 {
	if len(inputs) == 0 || len(inputs[0].Shape) == 0 {
		return 1
	}
	return int32(min(max(inputs[0].Shape[0], 1), math.MaxInt32))
}
