// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"time"

	inferencev1 "github.com/concord-inference/concord/go/gen/inference/v1"
	"github.com/concord-inference/concord/go/internal/feature"
	"google.golang.org/grpc"
	"google.golang.org/grpc/mem"
)

// quick is a request of Predict that is decoded straight into the tensors of the version that it names, where it is plainly right; else it is
// decoded by the general decoder into its request, and goes the general way.
type quick struct {
	server  *Server
	request *inferencev1.PredictRequest // without features where ready has a model
	ready   asked                       // the version, which is held, and its tensors; empty where the request goes the general way
}

// GetRequestId is the id that the request gives.
func (q *quick) GetRequestId() string { return q.request.GetRequestId() }

// decode reads the request as it came. It is false where the general decoder must read it. The server keeps nothing of the data.
func (q *quick) decode(data mem.BufferSlice) bool {
	buffer := data.MaterializeToBuffer(mem.DefaultBufferPool())
	defer buffer.Free()
	w, ok := feature.ScanWire(buffer.ReadOnlyData())
	if !ok {
		return false
	}
	q.request.ModelId, q.request.RequestId, q.request.ModelVersion = w.ModelID, w.RequestID, w.ModelVersion
	m, f := q.server.find(q.request)
	if f != nil {
		return false
	}
	q.ready.model = m
	if m.Features != nil {
		if q.ready.row, ok = m.Features.DecodeWire(&w); ok {
			return true
		}
	}
	q.ready.release()
	q.ready.model = nil
	return false
}

// predictQuick handles Predict like the generated handler.
func (s *Server) predictQuick(implementation any, ctx context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
	begin := time.Now()
	q := &quick{server: s, request: &inferencev1.PredictRequest{}}
	defer func() { q.ready.release() }()
	if err := decode(q); err != nil {
		return nil, err
	}
	response, err := implementation.(*inference).predict(ctx, begin, q.request, &q.ready)
	if err != nil {
		return nil, err
	}
	return response, nil
}

// inferenceService is how InferenceService is served.
func (s *Server) inferenceService() *grpc.ServiceDesc {
	desc := inferencev1.InferenceService_ServiceDesc
	if !s.options.FastDecode {
		return &desc
	}
	methods := make([]grpc.MethodDesc, len(desc.Methods))
	for i, method := range desc.Methods {
		if method.MethodName == "Predict" {
			method.Handler = s.predictQuick
		}
		methods[i] = method
	}
	desc.Methods = methods
	return &desc
}
