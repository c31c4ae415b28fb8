// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"errors"
	"net"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	inferencev1 "github.com/concord-inference/concord/go/gen/inference/v1"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/protoadapt"
)

// seen is one call that reached the fake server.
type seen struct {
	method   string
	request  proto.Message
	metadata metadata.MD
	deadline time.Time
}

// fakeServer plays Concord in this process: it answers with what its functions say and remembers every call.
type fakeServer struct {
	inferencev1.UnimplementedInferenceServiceServer
	inferencev1.UnimplementedModelCatalogServiceServer
	address string

	mu      sync.Mutex
	calls   []seen
	models  map[string]*inferencev1.Model
	predict func(context.Context, *inferencev1.PredictRequest) (*inferencev1.PredictResponse, error)
	batch   func(*inferencev1.BatchPredictRequest) (*inferencev1.BatchPredictResponse, error)
	stream  func(*inferencev1.PredictRequest, inferencev1.InferenceService_StreamPredictServer) error
	catalog error
}

// start runs a fake server on a port of its own until the test ends.
func start(t testing.TB, options ...grpc.ServerOption) *fakeServer {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	fake := &fakeServer{address: listener.Addr().String(), models: map[string]*inferencev1.Model{}}
	fake.answer(func(_ context.Context, request *inferencev1.PredictRequest) (*inferencev1.PredictResponse, error) {
		return &inferencev1.PredictResponse{RequestId: request.GetRequestId(), ModelVersion: "1"}, nil
	})
	options = append(options, grpc.MaxRecvMsgSize(1<<30), grpc.MaxSendMsgSize(1<<30))
	server := grpc.NewServer(options...)
	inferencev1.RegisterInferenceServiceServer(server, fake)
	inferencev1.RegisterModelCatalogServiceServer(server, fake)
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	t.Cleanup(func() {
		server.Stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return fake
}

// connect makes a client of a fake server, closed at the test's end.
func connect(t testing.TB, target string, options ...Option) *Client {
	t.Helper()
	c, err := New(target, options...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

type predictFunc = func(context.Context, *inferencev1.PredictRequest) (*inferencev1.PredictResponse, error)

func (f *fakeServer) answer(predict predictFunc) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.predict = predict
}

func (f *fakeServer) current() predictFunc {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.predict
}

// serve puts a model into the catalog; its last version is the default, and answers.
func (f *fakeServer) serve(id string, labels map[string]string, versions ...*inferencev1.ModelVersion) {
	standard := versions[len(versions)-1].GetVersion()
	f.mu.Lock()
	f.models[id] = &inferencev1.Model{ModelId: id, DefaultVersion: standard, Labels: labels, Versions: versions}
	f.mu.Unlock()
	f.answer(func(_ context.Context, request *inferencev1.PredictRequest) (*inferencev1.PredictResponse, error) {
		version := request.GetModelVersion()
		if number, is := labels[version]; is {
			version = number
		}
		if version == "" {
			version = standard
		}
		return &inferencev1.PredictResponse{RequestId: request.GetRequestId(), ModelVersion: version}, nil
	})
}

// version is a ready version; features are "age FLOAT" or "image FLOAT 2 3".
func version(number string, features ...string) *inferencev1.ModelVersion {
	made := &inferencev1.ModelVersion{Version: number, State: inferencev1.ModelState_MODEL_STATE_READY}
	for _, feature := range features {
		words := strings.Fields(feature)
		var shape []int64
		for _, word := range words[2:] {
			n, err := strconv.ParseInt(word, 10, 64)
			if err != nil {
				panic(err)
			}
			shape = append(shape, n)
		}
		kind := inferencev1.FeatureType(inferencev1.FeatureType_value["FEATURE_TYPE_"+words[1]])
		made.Features = append(made.Features, &inferencev1.Feature{Name: words[0], Type: kind, Shape: shape, Required: true})
	}
	return made
}

// failure is a status as Concord's servers send it.
func failure(code codes.Code, reason, message string, details ...protoadapt.MessageV1) error {
	info := &errdetails.ErrorInfo{Reason: reason, Domain: "concord", Metadata: map[string]string{"model_id": "m"}}
	s, err := status.New(code, message).WithDetails(append([]protoadapt.MessageV1{protoadapt.MessageV1Of(info)}, details...)...)
	if err != nil {
		panic(err)
	}
	return s.Err()
}

func (f *fakeServer) note(ctx context.Context, method string, request proto.Message) {
	md, _ := metadata.FromIncomingContext(ctx)
	deadline, _ := ctx.Deadline()
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls = append(f.calls, seen{method, proto.Clone(request), md, deadline})
}

func (f *fakeServer) seen() []seen {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]seen(nil), f.calls...)
}

// methods gives the names of the calls since the given number of them.
func (f *fakeServer) methods(since int) string {
	var names []string
	for _, call := range f.seen()[since:] {
		names = append(names, call.method)
	}
	return strings.Join(names, " ")
}

func (f *fakeServer) count(method string) int {
	n := 0
	for _, call := range f.seen() {
		if call.method == method {
			n++
		}
	}
	return n
}

// sent is the value of a feature in the last Predict.
func (f *fakeServer) sent(feature string) *inferencev1.FeatureValue {
	calls := f.seen()
	for i := len(calls) - 1; i >= 0; i-- {
		if request, is := calls[i].request.(*inferencev1.PredictRequest); is {
			return request.GetFeatures()[feature]
		}
	}
	return nil
}

func (f *fakeServer) Predict(ctx context.Context, request *inferencev1.PredictRequest) (*inferencev1.PredictResponse, error) {
	f.note(ctx, "Predict", request)
	return f.current()(ctx, request)
}

func (f *fakeServer) StreamPredict(request *inferencev1.PredictRequest, stream inferencev1.InferenceService_StreamPredictServer) error {
	f.note(stream.Context(), "StreamPredict", request)
	return f.stream(request, stream)
}

func (f *fakeServer) BatchPredict(ctx context.Context, request *inferencev1.BatchPredictRequest) (*inferencev1.BatchPredictResponse, error) {
	f.note(ctx, "BatchPredict", request)
	if f.batch != nil {
		return f.batch(request)
	}
	response := &inferencev1.BatchPredictResponse{}
	for _, one := range request.GetRequests() {
		answer, err := f.current()(ctx, one)
		result := &inferencev1.BatchPredictResult{Result: &inferencev1.BatchPredictResult_Response{Response: answer}}
		if err != nil {
			result.Result = &inferencev1.BatchPredictResult_Error{Error: status.Convert(err).Proto()}
		}
		response.Results = append(response.Results, result)
	}
	return response, nil
}

func (f *fakeServer) Check(ctx context.Context, request *inferencev1.HealthCheckRequest) (*inferencev1.HealthCheckResponse, error) {
	f.note(ctx, "Check", request)
	switch request.GetService() {
	case "":
		return &inferencev1.HealthCheckResponse{Status: Serving}, nil
	case "models/m":
		return &inferencev1.HealthCheckResponse{Status: NotServing}, nil
	}
	return nil, failure(codes.NotFound, "SERVICE_NOT_FOUND", "no service here")
}

func (f *fakeServer) GetModel(ctx context.Context, request *inferencev1.GetModelRequest) (*inferencev1.GetModelResponse, error) {
	f.note(ctx, "GetModel", request)
	if f.catalog != nil {
		return nil, f.catalog
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if model := f.models[request.GetModelId()]; model != nil {
		return &inferencev1.GetModelResponse{Model: model}, nil
	}
	return nil, failure(codes.NotFound, "MODEL_NOT_FOUND", "model not found")
}

// ListModels gives a model a page.
func (f *fakeServer) ListModels(ctx context.Context, request *inferencev1.ListModelsRequest) (*inferencev1.ListModelsResponse, error) {
	f.note(ctx, "ListModels", request)
	page := 0
	if request.GetPageToken() != "" {
		var err error
		if page, err = strconv.Atoi(request.GetPageToken()); err != nil {
			return nil, err
		}
	}
	response := &inferencev1.ListModelsResponse{Models: []*inferencev1.Model{{ModelId: string(rune('a' + page))}}}
	if page < 2 {
		response.NextPageToken = strconv.Itoa(page + 1)
	}
	return response, nil
}

// asError gives the *Error in err, which has to be there with this code.
func asError(t testing.TB, err error, code codes.Code) *Error {
	t.Helper()
	var e *Error
	if !errors.As(err, &e) || e.Code != code {
		t.Fatalf("got %v, want an *Error of code %v", err, code)
	}
	return e
}
