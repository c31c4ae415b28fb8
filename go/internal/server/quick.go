// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"encoding/binary"
	"math"
	"strings"
	"sync"
	"time"

	inferencev1 "github.com/concord-inference/concord/go/gen/inference/v1"
	"github.com/concord-inference/concord/go/internal/fault"
	"github.com/concord-inference/concord/go/internal/feature"
	"github.com/concord-inference/concord/go/internal/model"
	"github.com/concord-inference/concord/go/internal/telemetry"
	"github.com/concord-inference/concord/go/internal/tensor"
	"google.golang.org/grpc"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
)

// quick is a call of Predict whose request is decoded straight into the tensors of the version that it names, where it is plainly right; else it is
// decoded by the general decoder into its request, and goes the general way. Where the version runs in the handler's goroutine, neither the request nor
// the answer ever is a message: the tensors are a lane's, and the answer is written as bytes.
type quick struct {
	server  *Server
	frame   frame
	request *inferencev1.PredictRequest // nil until the general way needs it; without features where ready has a model
	ready   asked                       // the version, which is held, and its tensors; empty where the request goes the general way
	ride    *model.Ride                 // the lane that holds the tensors; nil where they are ready's own
	id      string                      // the request's
}

// predictName is the method that is served so.
const predictName = "inference.v1.InferenceService/Predict"

var quicks = sync.Pool{New: func() any { return new(quick) }}

// GetRequestId is the id that the request gives.
func (q *quick) GetRequestId() string {
	if q.request != nil {
		return q.request.GetRequestId()
	}
	return q.id
}

// decode reads the request as it came. It is false where the general decoder must read it. The server keeps nothing of the data.
func (q *quick) decode(data mem.BufferSlice) bool {
	buffer := data.MaterializeToBuffer(mem.DefaultBufferPool())
	defer buffer.Free()
	w, ok := feature.ScanWire(buffer.ReadOnlyData())
	if !ok || model.CheckName(w.ModelID, w.ModelVersion) != nil {
		return false
	}
	m, f := q.server.options.Repository.Resolve(w.ModelID, w.ModelVersion)
	if f != nil {
		return false
	}
	q.ready.model, q.id = m, strings.Clone(w.RequestID)
	if m.Features != nil {
		if q.ride = m.Ride(); q.ride != nil {
			if m.Features.DecodeWireInto(&w, q.ride.Row()) {
				return true
			}
		} else if q.ready.row, ok = m.Features.DecodeWire(&w); ok {
			return true
		}
	}
	q.release()
	return false
}

// release lets go of what decode took.
func (q *quick) release() {
	if q.ride != nil {
		q.ride.Done()
		q.ride = nil
	}
	q.ready.release()
	q.ready = asked{}
}

// message is what the general decoder decodes into.
func (q *quick) message() *inferencev1.PredictRequest {
	if q.request == nil {
		q.request = &inferencev1.PredictRequest{}
	}
	return q.request
}

// general is the request as a message, for who goes the general way. Its tensors leave the lane, which is for one row of one run.
func (q *quick) general() *inferencev1.PredictRequest {
	if q.request == nil {
		q.message().RequestId = q.id
	}
	if q.ride != nil {
		row := q.ride.Row()
		q.ready.row = make([]tensor.Tensor, len(row))
		for i := range row {
			q.ready.row[i] = row[i].Clone()
		}
		q.ride.Done()
		q.ride = nil
	}
	return q.request
}

// guardPredict is guardUnary for Predict, whose handler it knows.
func (s *Server) guardPredict(method string, shown *telemetry.Method) grpc.MethodHandler {
	return func(implementation any, ctx context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (reply any, err error) {
		ctx, call := shown.Begin(ctx)
		begin := time.Now() // after the call's own, so that its spans lie within
		q := quicks.Get().(*quick)
		q.server = s
		defer func() {
			if p := recover(); p != nil {
				err = s.panicked(method, q, p)
			}
			q.release()
			if err != nil {
				reply = nil
			}
			err = end(call, err)
			*q = quick{}
			quicks.Put(q)
		}()
		if err := s.receive(&q.frame, q, decode); err != nil {
			return nil, err
		}
		if q.ride != nil && !s.draining.Load() {
			packed, f, ran := s.ride(ctx, call, begin, q)
			if ran {
				if f != nil {
					return nil, f
				}
				return packed, nil
			}
		}
		ctx, cancel := beforeReset(ctx)
		defer cancel()
		response, err := implementation.(*inference).predict(ctx, begin, q.general(), &q.ready)
		if err != nil {
			return nil, err
		}
		if f := s.checkSize(response); f != nil {
			return nil, f
		}
		return response, nil
	}
}

// ride answers a request from its lane in this goroutine. It is false where the request must wait, or has ended already.
func (s *Server) ride(ctx context.Context, call *telemetry.Call, begin time.Time, q *quick) (*packed, *fault.Fault, bool) {
	now := time.Now()
	deadline, known := ctx.Deadline()
	if ctx.Err() != nil || known && deadline.Sub(now) < time.Millisecond {
		return nil, nil, false
	}
	longest, tooLong := s.limits.Load().MaxRequest, false
	if longest > 0 && (!known || deadline.Sub(begin) > longest) {
		deadline, tooLong = begin.Add(longest), true
	}
	m := q.ready.model
	if !m.Queue().Enter(now.Sub(begin)) {
		return nil, nil, false
	}
	left := false
	defer func() {
		if !left { // a defect: the executor's place must not be lost
			m.Queue().Leave(time.Since(now))
		}
	}()
	id := requestID(q.id)
	call.Asks(id)
	call.Answers(m.ID, m.Version)
	outputs, err := q.ride.Run(ctx, deadline, s.maxOutput())
	compute := time.Since(now)
	m.Queue().Leave(compute)
	left = true
	call.Ran(now, now.Sub(begin), compute, 1)
	switch {
	case err == nil:
	case ctx.Err() != nil:
		return nil, fault.Ended(ctx).At(m.ID, m.Version), true
	case err == context.DeadlineExceeded && tooLong:
		return nil, fault.TooLong(longest).At(m.ID, m.Version), true
	case err == context.DeadlineExceeded:
		return nil, fault.Expired().At(m.ID, m.Version), true
	default:
		return nil, s.refused(ctx, id, m.FaultOf(err).At(m.ID, m.Version)), true
	}
	b := protowire.AppendString(append(make([]byte, 0, answerBytes), tagRequestID), id)
	b, ok := m.Features.AppendAnswer(b, outputs)
	if !ok {
		err := m.Features.Encode(outputs, &inferencev1.PredictResponse{})
		return nil, s.refused(ctx, id, m.Failed(err)), true
	}
	b = protowire.AppendString(append(b, tagModelVersion), m.Version)
	b = appendTiming(b, now.Sub(begin), compute)
	b = appendMilliseconds(append(b, tagLatency), time.Since(begin))
	if len(b) > s.options.MaxMessageBytes {
		return nil, fault.AnswerTooLarge(int64(len(b)), int64(s.options.MaxMessageBytes)), true
	}
	return &packed{b}, nil, true
}

// packed is an answer as it goes over the wire.
type packed struct{ bytes []byte }

// answerBytes is room for the answer of most tabular models.
const answerBytes = 256

// The fields of an inference.v1.PredictResponse and of its Timing that are written here, each with its wire type.
const (
	tagRequestID    = 1<<3 | byte(protowire.BytesType)
	tagLatency      = 3<<3 | byte(protowire.Fixed32Type)
	tagModelVersion = 4<<3 | byte(protowire.BytesType)
	tagTiming       = 6<<3 | byte(protowire.BytesType)

	tagQueue   = 1<<3 | byte(protowire.Fixed32Type)
	tagCompute = 2<<3 | byte(protowire.Fixed32Type)
	tagRows    = 3<<3 | byte(protowire.VarintType)
)

func appendTiming(b []byte, queue, compute time.Duration) []byte {
	b = append(b, tagTiming, 5+5+2)
	b = appendMilliseconds(append(b, tagQueue), queue)
	b = appendMilliseconds(append(b, tagCompute), compute)
	return append(b, tagRows, 1)
}

func appendMilliseconds(b []byte, d time.Duration) []byte {
	return binary.LittleEndian.AppendUint32(b, math.Float32bits(milliseconds(d)))
}
