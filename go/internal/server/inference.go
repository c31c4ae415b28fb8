// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"time"

	inferencev1 "github.com/concord-inference/concord/go/gen/inference/v1"
	"github.com/concord-inference/concord/go/internal/batch"
	"github.com/concord-inference/concord/go/internal/fault"
	"github.com/concord-inference/concord/go/internal/model"
	"github.com/concord-inference/concord/go/internal/telemetry"
	"github.com/concord-inference/concord/go/internal/tensor"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
)

// inference is inference.v1.InferenceService.
type inference struct {
	inferencev1.UnimplementedInferenceServiceServer
	server *Server
}

// asked is one request on its way: the version that answers, and its tensors.
type asked struct {
	id    string // the request's, or ours
	model *model.Model
	row   []tensor.Tensor
}

func (in *inference) Predict(ctx context.Context, request *inferencev1.PredictRequest) (*inferencev1.PredictResponse, error) {
	var ready asked
	defer func() { ready.release() }()
	return in.predict(ctx, time.Now(), request, &ready)
}

// predict answers a request that the server began with at a time. ready is what of it is there already, where it names a version; else it is taken there, and is the caller's to release.
func (in *inference) predict(
	ctx context.Context, begin time.Time, request *inferencev1.PredictRequest, ready *asked,
) (*inferencev1.PredictResponse, error) {
	if in.server.draining.Load() {
		return nil, draining()
	}
	ctx, cancel := in.server.within(ctx)
	defer cancel()
	call := telemetry.CallOf(ctx)
	a := ready
	if a.model != nil {
		a.id = requestID(request.GetRequestId())
		call.Answers(a.model.ID, a.model.Version)
		call.Asks(a.id)
	} else {
		var f *fault.Fault
		*a, f = in.ask(call, request)
		call.Asks(a.id)
		if f != nil {
			return nil, in.server.failed(a.id, f)
		}
	}
	if a.model.Generator != nil {
		response, ending, f := in.text(ctx, begin, request, a)
		if ending != nil {
			generated(call, ending)
		}
		if f != nil {
			return nil, in.server.refused(ctx, a.id, f)
		}
		return response, nil
	}
	result := a.model.Queue().One(ctx, in.part(a))
	ran(call, &result)
	response, f := answer(begin, a, &result)
	if f != nil {
		return nil, in.server.refused(ctx, a.id, f)
	}
	return response, nil
}

func (in *inference) BatchPredict(ctx context.Context, request *inferencev1.BatchPredictRequest) (*inferencev1.BatchPredictResponse, error) {
	begin := time.Now()
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
	results := make([]*inferencev1.BatchPredictResult, len(requests))
	all := make([]asked, len(requests))
	defer func() {
		for i := range all {
			all[i].release()
		}
	}()
	groups := map[*model.Model][]int{} // by version, in order
	var order []*model.Model
	for i, one := range requests {
		var f *fault.Fault
		if all[i], f = in.ask(call, one); f != nil {
			results[i] = in.failedResult(call, all[i].id, f)
			continue
		}
		if m := all[i].model; groups[m] == nil {
			order = append(order, m)
		}
		groups[all[i].model] = append(groups[all[i].model], i)
	}
	for _, m := range order {
		members := groups[m]
		if m.Generator != nil {
			if !in.texts(ctx, call, begin, requests, all, members, results) {
				return nil, fault.Ended(ctx)
			}
			continue
		}
		parts := make([]batch.Part, len(members))
		for at, i := range members {
			parts[at] = in.part(&all[i])
		}
		m.Queue().All(ctx, parts, func(at int, result *batch.Result) bool {
			i := members[at]
			ran(call, result)
			response, f := answer(begin, &all[i], result)
			if f != nil {
				results[i] = in.failedResult(call, all[i].id, f)
				return ctx.Err() == nil
			}
			results[i] = &inferencev1.BatchPredictResult{Result: &inferencev1.BatchPredictResult_Response{Response: response}}
			return true
		})
		// No one reads the results of a call that has ended.
		if ctx.Err() != nil {
			return nil, fault.Ended(ctx)
		}
	}
	return &inferencev1.BatchPredictResponse{Results: results}, nil
}

func (in *inference) Check(ctx context.Context, request *inferencev1.HealthCheckRequest) (*inferencev1.HealthCheckResponse, error) {
	response, err := in.server.options.Health.Check(ctx, &healthpb.HealthCheckRequest{Service: request.GetService()})
	if err != nil {
		return nil, err
	}
	return &inferencev1.HealthCheckResponse{Status: inferencev1.HealthCheckResponse_ServingStatus(response.GetStatus())}, nil
}

// release lets the version go that the request held.
func (a *asked) release() {
	if a.model != nil {
		a.model.Release()
	}
}

// find checks what a request names and how, and finds the version that answers it. The caller releases it.
func (s *Server) find(request *inferencev1.PredictRequest) (*model.Model, *fault.Fault) {
	if f := model.CheckName(request.GetModelId(), request.GetModelVersion()); f != nil {
		return nil, f
	}
	if f := model.CheckConfig(request.GetConfig()); f != nil {
		return nil, f.At(request.GetModelId(), "")
	}
	return s.options.Repository.Resolve(request.GetModelId(), request.GetModelVersion())
}

// ask takes a request as far as its tensors. The id is set, and a version may be held, also where that fails.
func (in *inference) ask(call *telemetry.Call, request *inferencev1.PredictRequest) (asked, *fault.Fault) {
	a := asked{id: requestID(request.GetRequestId())}
	var f *fault.Fault
	if a.model, f = in.server.find(request); f != nil {
		return a, f
	}
	call.Answers(a.model.ID, a.model.Version)
	if a.model.Generator != nil {
		return a, nil // it reads the features itself
	}
	if a.model.Features == nil {
		return a, fault.New(fault.MethodNotSupported, "model %s takes tensors only: %s",
			fault.Quote(a.model.ID), a.model.NoFeatures).At(a.model.ID, a.model.Version)
	}
	if a.row, f = a.model.Features.Decode(request.GetFeatures()); f != nil {
		return a, f.At(a.model.ID, a.model.Version)
	}
	return a, nil
}

// part is what a request brings to the queue.
func (in *inference) part(a *asked) batch.Part {
	return batch.Part{Inputs: a.row, Wanted: a.model.Features.Wanted(), Most: in.server.maxOutput()}
}

// answer makes the response of a request that ran.
func answer(begin time.Time, a *asked, result *batch.Result) (*inferencev1.PredictResponse, *fault.Fault) {
	if result.Err != nil {
		return nil, result.Err.At(a.model.ID, a.model.Version)
	}
	response := &inferencev1.PredictResponse{
		RequestId:    a.id,
		ModelVersion: a.model.Version,
		Timing: &inferencev1.Timing{
			QueueMs:   milliseconds(result.Elapsed.Queue),
			ComputeMs: milliseconds(result.Elapsed.Compute),
			BatchRows: int32(result.Rows),
		},
	}
	if err := a.model.Features.Encode(result.Outputs, response); err != nil {
		return nil, a.model.Failed(err)
	}
	response.LatencyMs = milliseconds(time.Since(begin))
	return response, nil
}

func (in *inference) failedResult(call *telemetry.Call, requestID string, f *fault.Fault) *inferencev1.BatchPredictResult {
	return &inferencev1.BatchPredictResult{Result: &inferencev1.BatchPredictResult_Error{Error: in.server.failedItem(call, requestID, f)}}
}
