// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	inferencev1 "github.com/concord-inference/concord/go/gen/inference/v1"
	"github.com/concord-inference/concord/go/internal/fault"
	"github.com/concord-inference/concord/go/internal/generate"
	"github.com/concord-inference/concord/go/internal/model"
	"github.com/concord-inference/concord/go/internal/telemetry"
	"google.golang.org/grpc"
)

// lastWords is how long a caller who reads has to take what there was when its time was up.
const lastWords = 100 * time.Millisecond

func (in *inference) StreamPredict(request *inferencev1.PredictRequest, stream grpc.ServerStreamingServer[inferencev1.PredictToken]) error {
	begin := time.Now()
	if in.server.draining.Load() {
		return draining()
	}
	call := telemetry.CallOf(stream.Context())
	id := requestID(request.GetRequestId())
	call.Asks(id)
	m, f := in.server.find(request)
	if f != nil {
		return in.server.failed(id, f)
	}
	defer m.Release()
	call.Answers(m.ID, m.Version)
	if m.Generator == nil {
		return fault.New(fault.MethodNotSupported, "model %s is %s: it does not generate text",
			fault.Quote(m.ID), model.KindText(m.Kind)).At(m.ID, m.Version)
	}
	ctx, cancel := beforeReset(stream.Context())
	defer cancel()
	ctx, cancelWithin := in.server.within(ctx)
	defer cancelWithin()
	generation, f := m.Generator.Generate(ctx, asking(begin, request))
	if f != nil {
		return in.server.refused(stream.Context(), id, f)
	}
	// Sending waits for a caller who does not read, for as long as its call lasts; its time here may be up before.
	sent := make(chan sending, 1)
	go func() { sent <- in.send(stream, id, m.Version, generation) }()
	var s sending
	select {
	case s = <-sent:
	case <-ctx.Done():
		timer := time.NewTimer(lastWords)
		defer timer.Stop()
		select {
		case s = <-sent:
		case <-timer.C:
			return fault.Ended(ctx).At(m.ID, m.Version)
		}
	}
	if s.ending != nil {
		generated(call, s.ending)
		if s.ending.Err != nil {
			return in.server.failed(id, s.ending.Err.At(m.ID, m.Version))
		}
	}
	return s.err
}

// sending is what came of sending a text.
type sending struct {
	ending *generate.Ending // nil where the caller was gone before
	err    error
}

// send sends a text as it grows. It returns when all is sent, or the caller is gone.
func (in *inference) send(stream grpc.ServerStreamingServer[inferencev1.PredictToken], id, version string, generation *generate.Generation) (s sending) {
	defer func() {
		if p := recover(); p != nil {
			s.err = fault.InternalError(fmt.Errorf("panic: %v", p))
		}
	}()
	for index := int32(0); ; {
		tokens, ending := generation.Next()
		for _, token := range tokens {
			message := &inferencev1.PredictToken{Token: token.Text, TokenIndex: index, RequestId: id, ModelVersion: version, TokenId: int64(token.ID)}
			if s.err = stream.Send(message); s.err != nil {
				return s
			}
			index++
		}
		if ending == nil {
			continue
		}
		s.ending = ending
		if ending.Err == nil {
			s.err = stream.Send(&inferencev1.PredictToken{
				IsFinal: true, TokenIndex: index, RequestId: id, ModelVersion: version,
				FinishReason: ending.Reason, Usage: ending.Usage(), Timing: ending.Timing(), Seed: ending.Seed,
			})
		}
		return s
	}
}

func asking(begin time.Time, request *inferencev1.PredictRequest) generate.Request {
	return generate.Request{ID: request.GetRequestId(), Features: request.GetFeatures(), Config: request.GetConfig(), Arrived: begin}
}

// generated shows where the time of a text went.
func generated(call *telemetry.Call, ending *generate.Ending) {
	call.Generated(telemetry.Text{
		Began: ending.Began, First: ending.Decoding, Queue: ending.Queue, Compute: ending.Compute, Rows: ending.Rows,
		PromptTokens: ending.PromptTokens, Tokens: ending.Tokens,
	})
}

// text generates the whole text of a request. The ending is nil where it never began.
func (in *inference) text(ctx context.Context, begin time.Time, request *inferencev1.PredictRequest, a *asked) (*inferencev1.PredictResponse, *generate.Ending, *fault.Fault) {
	generation, f := a.model.Generator.Generate(ctx, asking(begin, request))
	if f != nil {
		return nil, nil, f
	}
	tokens, ending := generation.All()
	if ending.Err != nil {
		return nil, ending, ending.Err.At(a.model.ID, a.model.Version)
	}
	return &inferencev1.PredictResponse{
		RequestId: a.id, ModelVersion: a.model.Version, Outputs: generate.Answer(tokens), FinishReason: ending.Reason,
		Usage: ending.Usage(), Timing: ending.Timing(), Seed: ending.Seed, LatencyMs: milliseconds(time.Since(begin)),
	}, ending, nil
}

// texts generates the texts of a batch's requests to one version side by side, as many at once as it has slots. False is that the call has ended.
func (in *inference) texts(
	ctx context.Context, call *telemetry.Call, begin time.Time, requests []*inferencev1.PredictRequest, all []asked, members []int,
	results []*inferencev1.BatchPredictResult,
) bool {
	type answer struct {
		response *inferencev1.PredictResponse
		ending   *generate.Ending
		fault    *fault.Fault
	}
	answers := make([]answer, len(members))
	engine := all[members[0]].model.Generator
	var next atomic.Int64
	var thrown atomic.Pointer[any]
	var workers sync.WaitGroup
	for range min(len(members), engine.Slots(), engine.MaxWaiting()) {
		workers.Go(func() {
			defer func() {
				if p := recover(); p != nil {
					thrown.Store(&p)
				}
			}()
			for ctx.Err() == nil {
				at := int(next.Add(1)) - 1
				if at >= len(members) {
					return
				}
				answers[at].response, answers[at].ending, answers[at].fault = in.text(ctx, begin, requests[members[at]], &all[members[at]])
			}
		})
	}
	workers.Wait()
	if p := thrown.Load(); p != nil {
		panic(*p)
	}
	if ctx.Err() != nil {
		return false
	}
	for at, i := range members {
		if answers[at].ending != nil {
			generated(call, answers[at].ending)
		}
		if f := answers[at].fault; f != nil {
			results[i] = in.failedResult(call, all[i].id, f)
			continue
		}
		results[i] = &inferencev1.BatchPredictResult{Result: &inferencev1.BatchPredictResult_Response{Response: answers[at].response}}
	}
	return true
}
