// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"math"

	inferencev1 "github.com/concord-inference/concord/go/gen/inference/v1"
	"github.com/concord-inference/concord/go/internal/batch"
	"github.com/concord-inference/concord/go/internal/fault"
	"github.com/concord-inference/concord/go/internal/model"
	"github.com/concord-inference/concord/go/internal/telemetry"
	"github.com/concord-inference/concord/go/internal/tensor"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

// tensorInference is inference.v1.ModelInference.
type tensorInference struct {
	inferencev1.UnimplementedModelInferenceServer
	server *Server
}

// askedTensors is one request on its way: the version that answers, its tensors, and the outputs it wants.
type askedTensors struct {
	id     string // the request's, or ours
	model  *model.Model
	inputs []tensor.Tensor
	wanted []int
}

func (in *tensorInference) Predict(ctx context.Context, request *inferencev1.PredictionRequest) (*inferencev1.PredictionResponse, error) {
	if in.server.draining.Load() {
		return nil, draining()
	}
	ctx, cancel := in.server.within(ctx)
	defer cancel()
	call := telemetry.CallOf(ctx)
	a, f := in.ask(call, request)
	call.Asks(a.id)
	defer a.release()
	if f != nil {
		return nil, in.server.failed(a.id, f)
	}
	result := a.model.Queue().One(ctx, in.part(&a))
	ran(call, &result)
	response, f := in.answer(&a, &result)
	if f != nil {
		return nil, in.server.refused(ctx, a.id, f)
	}
	return response, nil
}

// BatchPredict runs each request as it would run by itself: its tensors may have many rows.
func (in *tensorInference) BatchPredict(ctx context.Context, request *inferencev1.BatchPredictionRequest) (*inferencev1.BatchPredictionResponse, error) {
	if in.server.draining.Load() {
		return nil, draining()
	}
	requests := request.GetRequests()
	if f := in.server.checkBatch(len(requests)); f != nil {
		return nil, f
	}
	ctx, cancel := in.server.within(ctx)
	defer cancel()
	call := telemetry.CallOf(ctx)
	all := make([]askedTensors, len(requests))
	defer func() {
		for i := range all {
			all[i].release()
		}
	}()
	results := make([]*inferencev1.BatchPredictionResult, len(requests))
	total, limit := 0, in.server.options.MaxMessageBytes
	// What is too large together is told at once: what follows would be computed and held for nothing.
	put := func(i int, response *inferencev1.PredictionResponse, f *fault.Fault) bool {
		results[i] = &inferencev1.BatchPredictionResult{Result: &inferencev1.BatchPredictionResult_Response{Response: response}}
		if f != nil {
			results[i].Result = &inferencev1.BatchPredictionResult_Error{Error: in.server.failedItem(call, all[i].id, f)}
		}
		total += protowire.SizeTag(1) + protowire.SizeBytes(proto.Size(results[i]))
		return total <= limit
	}
	groups := map[*model.Model][]int{} // by version, in order
	var order []*model.Model
	for i, one := range requests {
		var f *fault.Fault
		if all[i], f = in.ask(call, one); f != nil {
			put(i, nil, f)
			continue
		}
		if m := all[i].model; groups[m] == nil {
			order = append(order, m)
		}
		groups[all[i].model] = append(groups[all[i].model], i)
	}
	for _, m := range order {
		members := groups[m]
		parts := make([]batch.Part, len(members))
		for at, i := range members {
			parts[at] = in.part(&all[i])
		}
		m.Queue().Each(ctx, parts, func(at int, result *batch.Result) bool {
			ran(call, result)
			response, f := in.answer(&all[members[at]], result)
			return put(members[at], response, f) && ctx.Err() == nil
		})
		// No one reads the results of a call that has ended.
		if ctx.Err() != nil {
			return nil, fault.Ended(ctx)
		}
		if total > limit {
			return nil, fault.AnswerTooLarge(int64(total), int64(limit))
		}
	}
	return &inferencev1.BatchPredictionResponse{Results: results}, nil
}

// release lets the version go that the request held.
func (a *askedTensors) release() {
	if a.model != nil {
		a.model.Release()
	}
}

// ask takes a request as far as its tensors. The id is set, and a version may be held, also where that fails.
func (in *tensorInference) ask(call *telemetry.Call, request *inferencev1.PredictionRequest) (askedTensors, *fault.Fault) {
	a := askedTensors{id: requestID(request.GetRequestId())}
	if f := model.CheckName(request.GetModelId(), request.GetModelVersion()); f != nil {
		return a, f
	}
	var f *fault.Fault
	if a.model, f = in.server.options.Repository.Resolve(request.GetModelId(), request.GetModelVersion()); f != nil {
		return a, f
	}
	m := a.model
	call.Answers(m.ID, m.Version)
	if m.Kind == inferencev1.ModelKind_MODEL_KIND_GENERATOR {
		return a, fault.New(fault.MethodNotSupported, "model %s is generator: it takes no tensors", fault.Quote(m.ID)).At(m.ID, m.Version)
	}
	if a.inputs, a.wanted, f = model.DecodeTensors(m, request.GetInputs(), request.GetOutputNames()); f != nil {
		return a, f.At(m.ID, m.Version)
	}
	return a, nil
}

// part is what a request brings to the queue.
func (in *tensorInference) part(a *askedTensors) batch.Part {
	return batch.Part{Inputs: a.inputs, Wanted: a.wanted, Most: in.server.maxOutput()}
}

// answer makes the response of a request that ran.
func (in *tensorInference) answer(a *askedTensors, result *batch.Result) (*inferencev1.PredictionResponse, *fault.Fault) {
	m := a.model
	if result.Err != nil {
		return nil, result.Err.At(m.ID, m.Version)
	}
	response := &inferencev1.PredictionResponse{
		RequestId:    a.id,
		ModelVersion: m.Version,
		Outputs:      make(map[string]*inferencev1.Tensor, len(result.Outputs)),
		Timing: &inferencev1.Timing{
			QueueMs: milliseconds(result.Elapsed.Queue), ComputeMs: milliseconds(result.Elapsed.Compute),
			BatchRows: int32(min(result.Rows, math.MaxInt32)),
		},
	}
	specs := m.Outputs()
	for at := range result.Outputs {
		response.Outputs[specs[a.wanted[at]].Name] = tensor.ToWire(&result.Outputs[at])
	}
	limit := int64(in.server.options.MaxMessageBytes)
	if size := int64(proto.Size(response)); size > limit {
		return nil, fault.AnswerTooLarge(size, limit).At(m.ID, m.Version)
	}
	return response, nil
}
