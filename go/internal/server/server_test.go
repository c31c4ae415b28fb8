// SPDX-License-Identifier: Apache-2.0

package server

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"math"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	inferencev1 "github.com/concord-inference/concord/go/gen/inference/v1"
	recommenderv1 "github.com/concord-inference/concord/go/gen/recommender/v1"
	"github.com/concord-inference/concord/go/internal/batch"
	"github.com/concord-inference/concord/go/internal/fault"
	"github.com/concord-inference/concord/go/internal/model"
	"github.com/concord-inference/concord/go/internal/modeltest"
	"github.com/concord-inference/concord/go/internal/repository"
	"github.com/concord-inference/concord/go/internal/tensor"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/encoding/gzip"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/mem"
	reflectionpb "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/stats"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

const patience = 10 * time.Second // far more than anything here takes

// lockedBuffer is a log that is read while it is written.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// started is a server on a free port, with models that need no ONNX Runtime:
// "echo" gives x back as y, "fail" fails, "panic" panics, "big" answers with 4 MB, "slow" waits for release or for its context, "broken" does not
// load, "wide" takes tensors only.
type started struct {
	*Server
	log      *lockedBuffer
	conn     *grpc.ClientConn
	client   inferencev1.InferenceServiceClient
	entered  chan struct{} // a slow run has begun
	release  chan struct{} // lets slow runs end
	listener net.Listener
	alphabet modeltest.Alphabet // the model "chat", which goes on with the alphabet

	maxQueueRows int
}

func start(t *testing.T, change func(*Options)) *started {
	t.Helper()
	return startWith(t, change, nil)
}

// startWith is start with the model "chat" too, where prepare is not nil.
func startWith(t *testing.T, change func(*Options), prepare func(*started)) *started {
	t.Helper()
	s := &started{log: &lockedBuffer{}, entered: make(chan struct{}, 100), release: make(chan struct{})}
	directory := t.TempDir()
	for _, id := range []string{"echo", "fail", "panic", "big", "slow", "broken", "wide"} {
		modeltest.WriteFile(t, filepath.Join(directory, id, "3", "model.onnx"), []byte(id))
	}
	modeltest.WriteFile(t, filepath.Join(directory, "echo", "labels.json"), []byte(`{"stable": 3}`))
	if prepare != nil {
		prepare(s)
		modeltest.TextGenerator().Write(t, filepath.Join(directory, "chat", "2"))
	}
	health := NewHealth()
	log := slog.New(slog.NewJSONHandler(s.log, nil))
	models, err := repository.Open(directory, repository.Options{
		Load: s.load, Changed: health.SetModel, Log: log,
		Generate: func(string) repository.Generate { return repository.Generate{Open: s.alphabet.Open, Chunk: 16} },
		Batching: func(string) batch.Settings { return batch.Settings{MaxQueueRows: s.maxQueueRows} },
	})
	if err != nil {
		t.Fatal(err)
	}
	options := Options{
		Repository: models, Health: health, MaxMessageBytes: 1 << 20, MaxBatchRequests: 100, Reflection: true, Log: log, FastDecode: true,
	}
	if change != nil {
		change(&options)
	}
	s.Server = New(options)
	if err := models.List(); err != nil {
		t.Fatal(err)
	}
	models.Load(context.Background())
	health.SetServing()
	if s.listener, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- s.Serve(s.listener) }()
	t.Cleanup(func() {
		s.Stop()
		if err := <-served; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	s.conn, err = grpc.NewClient(s.listener.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(math.MaxInt32)), grpc.WithDisableRetry())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.conn.Close() })
	s.client = inferencev1.NewInferenceServiceClient(s.conn)
	return s
}

func (s *started) load(graph []byte, _ map[string][]byte) (model.Session, error) {
	session := &modeltest.Session{In: []tensor.Spec{{Name: "x", DType: tensor.Float32, Shape: []int64{-1}}}}
	session.Out = []tensor.Spec{{Name: "y", DType: tensor.Float32, Shape: []int64{-1}}}
	switch string(graph) {
	case "echo":
	case "fail":
		session.Do = func(context.Context, []tensor.Tensor) ([]tensor.Tensor, error) {
			return nil, errors.New("Gather at /build/gather.cc: out of bounds")
		}
	case "panic":
		session.Do = func(context.Context, []tensor.Tensor) ([]tensor.Tensor, error) { panic("secret cause") }
	case "big":
		session.Out[0].Shape = []int64{-1, -1}
		session.Do = func(context.Context, []tensor.Tensor) ([]tensor.Tensor, error) {
			return []tensor.Tensor{tensor.Make(tensor.Float32, []int64{1, 1 << 20})}, nil
		}
	case "slow":
		session.Do = func(ctx context.Context, in []tensor.Tensor) ([]tensor.Tensor, error) {
			s.entered <- struct{}{}
			select {
			case <-s.release:
				return in, nil
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		}
	case "wide":
		session.In[0].Shape, session.Out[0].Shape = []int64{-1, -1, -1}, []int64{-1, -1, -1}
	default:
		return nil, errors.New("it is broken")
	}
	return session, nil
}

func call(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

func ask(id string, x float32) *inferencev1.PredictRequest {
	return &inferencev1.PredictRequest{ModelId: id, Features: map[string]*inferencev1.FeatureValue{"x": modeltest.Float(x)}}
}

// wantStatus holds an error against the contract of every error.
func wantStatus(t *testing.T, s *status.Status, code codes.Code, reason fault.Reason, message string, fields ...string) *errdetails.ErrorInfo {
	t.Helper()
	if s.Code() != code || message != "" && s.Message() != message {
		t.Errorf("got %s %q, want %s %q", s.Code(), s.Message(), code, message)
	}
	var info *errdetails.ErrorInfo
	var got []string
	retry := false
	for _, d := range s.Details() {
		switch d := d.(type) {
		case *errdetails.ErrorInfo:
			if info != nil {
				t.Error("two ErrorInfo")
			}
			info = d
		case *errdetails.BadRequest:
			for _, v := range d.GetFieldViolations() {
				got = append(got, v.GetField())
				if v.GetDescription() == "" {
					t.Errorf("%s has no description", v.GetField())
				}
			}
		case *errdetails.RetryInfo:
			retry = d.GetRetryDelay().AsDuration() > 0
		}
	}
	if info.GetReason() != string(reason) || info.GetDomain() != "concord" {
		t.Errorf("got %v, want reason %s (%s)", info, reason, s.Message())
	}
	if code == codes.InvalidArgument && !slices.Equal(got, fields) {
		t.Errorf("violations of %q, want %q", got, fields)
	}
	if want := code == codes.Unavailable || reason == fault.QueueFull; retry != want {
		t.Errorf("RetryInfo: %v, want %v", retry, want)
	}
	return info
}

func TestPredict(t *testing.T) {
	s := start(t, nil)
	for _, version := range []string{"", "3", "stable"} {
		request := ask("echo", float32(math.Inf(1)))
		request.ModelVersion, request.RequestId = version, "Größe \x01 1"
		response, err := s.client.Predict(call(t), request)
		if err != nil {
			t.Fatal(err)
		}
		if response.GetRequestId() != request.RequestId || response.GetModelVersion() != "3" || !math.IsInf(float64(response.GetPredictions()["y"]), 1) ||
			response.GetOutputs()["y"].GetFloatValue() != response.GetPredictions()["y"] || response.GetTiming().GetBatchRows() != 1 ||
			response.GetLatencyMs() < response.GetTiming().GetComputeMs() {
			t.Errorf("got %v", response)
		}
	}
	ids := map[string]bool{}
	for range 3 {
		response, err := s.client.Predict(call(t), ask("echo", 1))
		if err != nil || !regexp.MustCompile("^[0-9a-f]{32}$").MatchString(response.GetRequestId()) {
			t.Fatalf("got %v, %v", response, err)
		}
		ids[response.GetRequestId()] = true
	}
	if len(ids) != 3 {
		t.Error("a made id came twice")
	}
}

func TestPredictErrors(t *testing.T) {
	s := start(t, nil)
	for _, c := range []struct {
		name    string
		change  func(*inferencev1.PredictRequest)
		code    codes.Code
		reason  fault.Reason
		message string
		fields  []string
	}{
		{"empty", func(r *inferencev1.PredictRequest) { r.Reset() }, codes.InvalidArgument, fault.ModelIDInvalid, `model_id: expected [A-Za-z0-9][A-Za-z0-9._-]{0,127}, got nothing`, []string{"model_id"}},
		{"id before version", func(r *inferencev1.PredictRequest) { r.ModelId, r.ModelVersion = "../x", "01" }, codes.InvalidArgument, fault.ModelIDInvalid, "", []string{"model_id"}},
		{"version before config", func(r *inferencev1.PredictRequest) {
			r.ModelVersion, r.Config = "01", &inferencev1.InferenceConfig{TopP: 2}
		}, codes.InvalidArgument, fault.ModelVersionInvalid, "", []string{"model_version"}},
		{"config before model", func(r *inferencev1.PredictRequest) {
			r.ModelId, r.Config = "nobody", &inferencev1.InferenceConfig{TopP: 1.5}
		}, codes.InvalidArgument, fault.ConfigInvalid, "config.top_p: expected 0 to 1, got 1.5", []string{"config.top_p"}},
		{"model before features", func(r *inferencev1.PredictRequest) { r.ModelId, r.Features = "nobody", nil }, codes.NotFound, fault.ModelNotFound, `model "nobody" not found`, nil},
		{"version", func(r *inferencev1.PredictRequest) { r.ModelVersion = "7" }, codes.NotFound, fault.VersionNotFound, `model "echo" has no version 7`, nil},
		{"label", func(r *inferencev1.PredictRequest) { r.ModelVersion = "canary" }, codes.NotFound, fault.LabelNotFound, `model "echo" has no label "canary"`, nil},
		{"failed", func(r *inferencev1.PredictRequest) { r.ModelId = "broken" }, codes.FailedPrecondition, fault.ModelFailed, `model "broken" version 3 failed to load: it is broken`, nil},
		{"tensors only", func(r *inferencev1.PredictRequest) { r.ModelId = "wide" }, codes.FailedPrecondition, fault.MethodNotSupported, `model "wide" takes tensors only: input "x" has 2 open axes`, nil},
		{"missing and unknown", func(r *inferencev1.PredictRequest) {
			r.Features = map[string]*inferencev1.FeatureValue{"z": modeltest.Float(1), "a": modeltest.Float(1)}
		}, codes.InvalidArgument, fault.FeatureMissing, `feature "x": expected a float, got nothing (and 2 more)`, []string{`features["x"]`, `features["a"]`, `features["z"]`}},
		{"run", func(r *inferencev1.PredictRequest) { r.ModelId = "fail" }, codes.Internal, fault.ModelExecutionFailed, `model "fail" version 3 failed on this input: Gather at <...> out of bounds`, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			request := ask("echo", 1)
			c.change(request)
			_, err := s.client.Predict(call(t), request)
			info := wantStatus(t, status.Convert(err), c.code, c.reason, c.message, c.fields...)
			if want := request.GetModelId(); model.IsID(want) && info.GetMetadata()["model_id"] != want {
				t.Errorf("metadata: %v", info.GetMetadata())
			}
		})
	}
	if _, err := s.client.Predict(call(t), ask("echo", 1)); err != nil {
		t.Errorf("after all that: %v", err)
	}
	request := ask("fail", 1)
	request.RequestId = "find-me"
	_, _ = s.client.Predict(call(t), request)
	if !strings.Contains(s.log.String(), `"request_id":"find-me","reason":"MODEL_EXECUTION_FAILED","model_id":"fail","model_version":"3","cause":"Gather at /build/gather.cc: out of bounds"`) {
		t.Errorf("log: %s", s.log)
	}
}

func TestPanic(t *testing.T) {
	s := start(t, nil)
	request := ask("panic", 1)
	request.RequestId = "p-1"
	_, err := s.client.Predict(call(t), request)
	wantStatus(t, status.Convert(err), codes.Internal, fault.Internal, "internal error")
	if log := s.log.String(); !strings.Contains(log, `"cause":"panic: secret cause`) {
		t.Errorf("log: %s", log)
	}
	if _, err := s.client.Predict(call(t), ask("echo", 1)); err != nil {
		t.Errorf("the process does not go on: %v", err)
	}
}

func TestBatchPredict(t *testing.T) {
	s := start(t, nil)
	requests := []*inferencev1.PredictRequest{ask("echo", 1), ask("fail", 2), ask("nobody", 3), ask("echo", 4), {ModelId: "echo"}, ask("", 6), ask("echo", 7)}
	requests[3].RequestId = "four"
	response, err := s.client.BatchPredict(call(t), &inferencev1.BatchPredictRequest{Requests: requests})
	if err != nil || len(response.GetResults()) != len(requests) {
		t.Fatalf("got %v, %v", response, err)
	}
	for i, want := range []fault.Reason{"", fault.ModelExecutionFailed, fault.ModelNotFound, "", fault.FeatureMissing, fault.ModelIDInvalid, ""} {
		result := response.GetResults()[i]
		if want == "" {
			if got := result.GetResponse(); got.GetPredictions()["y"] != requests[i].GetFeatures()["x"].GetFloatValue() || got.GetRequestId() == "" {
				t.Errorf("result %d: %v", i, result)
			}
			continue
		}
		_, alone := s.client.Predict(call(t), requests[i])
		if got := status.FromProto(result.GetError()); got.String() != status.Convert(alone).String() || len(got.Details()) != len(status.Convert(alone).Details()) {
			t.Errorf("result %d: %v, alone %v", i, got, alone)
		}
	}
	if got := response.GetResults()[3].GetResponse().GetRequestId(); got != "four" {
		t.Errorf("request id %q", got)
	}
	_, err = s.client.BatchPredict(call(t), &inferencev1.BatchPredictRequest{})
	wantStatus(t, status.Convert(err), codes.InvalidArgument, fault.BatchEmpty, "requests: expected at least 1 request, got 0", "requests")
	_, err = s.client.BatchPredict(call(t), &inferencev1.BatchPredictRequest{Requests: make([]*inferencev1.PredictRequest, 101)})
	wantStatus(t, status.Convert(err), codes.InvalidArgument, fault.BatchTooLarge, "requests: expected at most 100 requests, got 101", "requests")
}

func TestStreamPredict(t *testing.T) {
	s := start(t, nil)
	for id, c := range map[string]struct {
		code    codes.Code
		reason  fault.Reason
		message string
	}{
		"echo":   {codes.FailedPrecondition, fault.MethodNotSupported, `model "echo" is tensor: it does not generate text`},
		"broken": {codes.FailedPrecondition, fault.ModelFailed, ""},
		"nobody": {codes.NotFound, fault.ModelNotFound, ""},
	} {
		stream, err := s.client.StreamPredict(call(t), ask(id, 1))
		if err != nil {
			t.Fatal(err)
		}
		_, err = stream.Recv()
		wantStatus(t, status.Convert(err), c.code, c.reason, c.message)
	}
}

// raw is a codec that sends bytes as they are.
type raw struct{}

func (raw) Name() string { return "proto" }
func (raw) Marshal(v any) (mem.BufferSlice, error) {
	return mem.BufferSlice{mem.SliceBuffer(v.([]byte))}, nil
}
func (raw) Unmarshal(mem.BufferSlice, any) error { return nil }

func TestMalformed(t *testing.T) {
	s := start(t, nil)
	for _, c := range []struct{ method, message string }{
		{"inference.v1.InferenceService/Predict", "inference.v1.PredictRequest"},
		{"inference.v1.InferenceService/BatchPredict", "inference.v1.BatchPredictRequest"},
		{"inference.v1.ModelCatalogService/GetModel", "inference.v1.GetModelRequest"},
		{"grpc.health.v1.Health/Check", "grpc.health.v1.HealthCheckRequest"},
	} {
		for name, data := range map[string][]byte{"no message": []byte("\xffnot protobuf"), "no UTF-8": []byte("\x0a\x0b\xff0123456789")} {
			err := s.conn.Invoke(call(t), "/"+c.method, data, nil, grpc.ForceCodecV2(raw{}))
			if strings.HasSuffix(c.method, "BatchPredict") && name == "no UTF-8" {
				continue // these bytes could be one request
			}
			wantStatus(t, status.Convert(err), codes.InvalidArgument, fault.RequestMalformed, "expected a message of type "+c.message+", got 13 bytes that are none", "")
		}
	}
	stream, err := s.conn.NewStream(call(t), &grpc.StreamDesc{ServerStreams: true}, "/inference.v1.InferenceService/StreamPredict", grpc.ForceCodecV2(raw{}))
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(stream.SendMsg([]byte{0xff}), stream.CloseSend()); err != nil {
		t.Fatal(err)
	}
	wantStatus(t, status.Convert(stream.RecvMsg(nil)), codes.InvalidArgument, fault.RequestMalformed, "expected a message of type inference.v1.PredictRequest, got 1 bytes that are none", "")
}

func TestSizes(t *testing.T) {
	s := start(t, nil)
	const limit = 1 << 20
	request := ask("echo", 1)
	size := func() int { return proto.Size(request) }
	// Long enough that its length takes as many bytes as the final one's.
	request.RequestId = strings.Repeat("x", limit/2)
	request.RequestId = strings.Repeat("x", limit/2+limit-size())
	if size() != limit {
		t.Fatalf("the request has %d bytes", size())
	}
	// It is as large as can be, so its answer, which repeats the id, may be larger.
	if _, err := s.client.Predict(call(t), request); status.Code(err) == codes.ResourceExhausted {
		wantStatus(t, status.Convert(err), codes.ResourceExhausted, fault.OutputTooLarge, "")
	}
	request.RequestId += "x"
	for name, options := range map[string][]grpc.CallOption{"plain": nil, "gzip": {grpc.UseCompressor(gzip.Name)}} {
		_, err := s.client.Predict(call(t), request, options...)
		t.Log(name)
		wantStatus(t, status.Convert(err), codes.ResourceExhausted, fault.MessageTooLarge, "expected a message of at most 1048576 bytes, got 1048577")
	}
	request.RequestId = strings.Repeat("x", 64<<20)
	for name, options := range map[string][]grpc.CallOption{"plain": nil, "gzip bomb": {grpc.UseCompressor(gzip.Name)}} {
		if _, err := s.client.Predict(call(t), request, options...); status.Code(err) != codes.ResourceExhausted {
			t.Errorf("%s: got %v", name, err)
		}
	}
	_, err := s.client.Predict(call(t), ask("big", 1))
	wantStatus(t, status.Convert(err), codes.ResourceExhausted, fault.OutputTooLarge, "")
	if _, err := s.client.Predict(call(t), ask("echo", 1)); err != nil {
		t.Errorf("after all that: %v", err)
	}
}

// encodings notes how each answer was compressed.
type encodings struct{ seen chan string }

func (encodings) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context   { return ctx }
func (encodings) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }
func (encodings) HandleConn(context.Context, stats.ConnStats)                       {}
func (e encodings) HandleRPC(_ context.Context, s stats.RPCStats) {
	if header, ok := s.(*stats.InHeader); ok {
		e.seen <- header.Compression
	}
}

func TestGzip(t *testing.T) {
	s := start(t, nil)
	e := encodings{make(chan string, 1)}
	conn, err := grpc.NewClient(s.conn.Target(), grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithStatsHandler(e))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for want, options := range map[string][]grpc.CallOption{"gzip": {grpc.UseCompressor(gzip.Name)}, "": nil} {
		response, err := inferencev1.NewInferenceServiceClient(conn).Predict(call(t), ask("echo", 5), options...)
		if err != nil || response.GetPredictions()["y"] != 5 {
			t.Fatalf("got %v, %v", response, err)
		}
		if got := <-e.seen; got != want {
			t.Errorf("a request of encoding %q got an answer of encoding %q", want, got)
		}
	}
}

func TestUnimplemented(t *testing.T) {
	s := start(t, nil)
	for name, ask := range map[string]func() error{
		"recommender.v1.Recommender/GetRecommendations": func() error {
			_, err := recommenderv1.NewRecommenderClient(s.conn).GetRecommendations(call(t), &recommenderv1.RecommendationRequest{})
			return err
		},
		"inference.v1.ModelAdminService/LoadModel": func() error {
			_, err := inferencev1.NewModelAdminServiceClient(s.conn).LoadModel(call(t), &inferencev1.LoadModelRequest{})
			return err
		},
		"inference.v1.InferenceService/Guess": func() error {
			return s.conn.Invoke(call(t), "/inference.v1.InferenceService/Guess", &inferencev1.PredictRequest{}, &inferencev1.PredictResponse{})
		},
	} {
		wantStatus(t, status.Convert(ask()), codes.Unimplemented, fault.MethodUnimplemented, name+" is not served here")
	}
}

func TestEndedCalls(t *testing.T) {
	s := start(t, nil)
	ctx, cancel := context.WithCancel(call(t))
	done := make(chan error, 1)
	go func() {
		_, err := s.client.Predict(ctx, ask("slow", 1))
		done <- err
	}()
	<-s.entered
	cancel()
	if err := <-done; status.Code(err) != codes.Canceled {
		t.Errorf("cancelled: %v", err)
	}
	// The server's own view, which the client, gone first, does not see.
	in := &inference{server: s.Server}
	for want, end := range map[fault.Reason]func(context.Context) (context.Context, context.CancelFunc){
		fault.DeadlineExceeded: func(ctx context.Context) (context.Context, context.CancelFunc) {
			return context.WithTimeout(ctx, time.Millisecond)
		},
		fault.Cancelled: func(ctx context.Context) (context.Context, context.CancelFunc) {
			ctx, cancel := context.WithCancel(ctx)
			cancel()
			return ctx, cancel
		},
	} {
		ctx, cancel := end(call(t))
		_, err := in.Predict(ctx, ask("slow", 1))
		if f := fault.From(err); f.Reason != want {
			t.Errorf("Predict: got %v, want %s", err, want)
		}
		_, err = in.BatchPredict(ctx, &inferencev1.BatchPredictRequest{Requests: []*inferencev1.PredictRequest{ask("slow", 1)}})
		if f := fault.From(err); f.Reason != want {
			t.Errorf("BatchPredict: got %v, want %s", err, want)
		}
		cancel()
	}
}

func TestHealth(t *testing.T) {
	s := start(t, nil)
	health := healthpb.NewHealthClient(s.conn)
	want := map[string]servingStatus{
		"": serving, "InferenceService": serving, "inference.v1.InferenceService": serving, "inference.v1.ModelCatalogService": serving,
		"inference.v1.ModelInference": serving,
		"models/echo":                 serving, "models/fail": serving, "models/panic": serving, "models/big": serving, "models/slow": serving, "models/wide": serving,
		"models/broken": notServing,
	}
	for name, status := range want {
		response, err := health.Check(call(t), &healthpb.HealthCheckRequest{Service: name})
		if err != nil || response.GetStatus() != status {
			t.Errorf("%q: got %v, %v", name, response, err)
		}
		ours, err := s.client.Check(call(t), &inferencev1.HealthCheckRequest{Service: name})
		if err != nil || int32(ours.GetStatus()) != int32(status) {
			t.Errorf("InferenceService.Check %q: got %v, %v", name, ours, err)
		}
	}
	list, err := health.List(call(t), &healthpb.HealthListRequest{})
	if err != nil || len(list.GetStatuses()) != len(want) {
		t.Errorf("got %v, %v", list, err)
	}
	for name, response := range list.GetStatuses() {
		if response.GetStatus() != want[name] {
			t.Errorf("listed %q: %v", name, response)
		}
	}
	_, err = health.Check(call(t), &healthpb.HealthCheckRequest{Service: "models/nobody"})
	wantStatus(t, status.Convert(err), codes.NotFound, fault.ServiceNotFound, `no service or model "models/nobody" here`)
	_, err = s.client.Check(call(t), &inferencev1.HealthCheckRequest{Service: "x"})
	wantStatus(t, status.Convert(err), codes.NotFound, fault.ServiceNotFound, `no service or model "x" here`)
}

func TestWatch(t *testing.T) {
	s := start(t, nil)
	watch, err := healthpb.NewHealthClient(s.conn).Watch(call(t), &healthpb.HealthCheckRequest{Service: "models/new"})
	if err != nil {
		t.Fatal(err)
	}
	next := func() servingStatus {
		response, err := watch.Recv()
		if err != nil {
			t.Fatal(err)
		}
		return response.GetStatus()
	}
	if got := next(); got != unknown {
		t.Errorf("at once: %v", got)
	}
	s.options.Health.SetModel("new", false)
	if got := next(); got != notServing {
		t.Errorf("then: %v", got)
	}
	s.options.Health.SetModel("other", true)
	s.options.Health.SetModel("new", false)
	s.options.Health.SetModel("new", true)
	if got := next(); got != serving {
		t.Errorf("no repetition was wanted, got %v", got)
	}
}

func TestHTTP(t *testing.T) {
	health := NewHealth()
	get := func(path string) (int, string) {
		recorder := httptest.NewRecorder()
		health.Handler().ServeHTTP(recorder, httptest.NewRequest(http.MethodGet, path, nil))
		return recorder.Code, recorder.Body.String()
	}
	for _, c := range []struct {
		change func()
		path   string
		code   int
		body   string
	}{
		{func() {}, "/healthz", 200, "ok"},
		{func() {}, "/readyz", 503, "not serving"},
		{health.SetServing, "/readyz", 200, "ok"},
		{health.Stop, "/readyz", 503, "not serving"},
		{health.SetServing, "/readyz", 503, "not serving"},
		{func() {}, "/healthz", 200, "ok"},
		{func() {}, "/metrics", 404, "404 page not found\n"},
	} {
		c.change()
		if code, body := get(c.path); code != c.code || body != c.body {
			t.Errorf("%s: got %d %q, want %d %q", c.path, code, body, c.code, c.body)
		}
	}
}

func TestCatalog(t *testing.T) {
	s := start(t, nil)
	catalog := inferencev1.NewModelCatalogServiceClient(s.conn)
	var ids []string
	token := ""
	for {
		page, err := catalog.ListModels(call(t), &inferencev1.ListModelsRequest{PageSize: 3, PageToken: token})
		if err != nil || len(page.GetModels()) > 3 {
			t.Fatalf("got %v, %v", page, err)
		}
		for _, m := range page.GetModels() {
			ids = append(ids, m.GetModelId())
		}
		if token = page.GetNextPageToken(); token == "" {
			break
		}
	}
	if want := []string{"big", "broken", "echo", "fail", "panic", "slow", "wide"}; !slices.Equal(ids, want) {
		t.Errorf("got %v", ids)
	}
	for field, request := range map[string]*inferencev1.ListModelsRequest{
		"page_size": {PageSize: 1001}, "page_token": {PageToken: "not an id"},
	} {
		_, err := catalog.ListModels(call(t), request)
		wantStatus(t, status.Convert(err), codes.InvalidArgument, fault.RequestMalformed, "", field)
	}
	_, err := catalog.ListModels(call(t), &inferencev1.ListModelsRequest{PageSize: -1})
	wantStatus(t, status.Convert(err), codes.InvalidArgument, fault.RequestMalformed, "page_size: expected 0 to 1000, got -1", "page_size")

	got, err := catalog.GetModel(call(t), &inferencev1.GetModelRequest{ModelId: "echo"})
	if err != nil {
		t.Fatal(err)
	}
	echo := got.GetModel()
	version := echo.GetVersions()[0]
	if echo.GetDefaultVersion() != "3" || echo.GetLabels()["stable"] != "3" || version.GetState() != repository.Ready ||
		version.GetKind() != inferencev1.ModelKind_MODEL_KIND_TENSOR || version.GetVerified() || version.GetFeatures()[0].GetName() != "x" ||
		version.GetPredictions()[0].GetName() != "y" || version.GetOutputs()[0].GetName() != "y" ||
		!slices.Equal(version.GetInputTensors()[0].GetShape(), []int64{-1}) || version.GetReadyTime().AsTime().IsZero() {
		t.Errorf("got %v", echo)
	}
	broken, err := catalog.GetModel(call(t), &inferencev1.GetModelRequest{ModelId: "broken"})
	if err != nil {
		t.Fatal(err)
	}
	failed := broken.GetModel().GetVersions()[0]
	if broken.GetModel().GetDefaultVersion() != "" || failed.GetState() != repository.Failed || failed.GetKind() != 0 {
		t.Errorf("got %v", broken)
	}
	wantStatus(t, status.FromProto(failed.GetError()), codes.FailedPrecondition, fault.ModelFailed, `model "broken" version 3 failed to load: it is broken`)
	_, err = catalog.GetModel(call(t), &inferencev1.GetModelRequest{ModelId: "nobody"})
	wantStatus(t, status.Convert(err), codes.NotFound, fault.ModelNotFound, `model "nobody" not found`)
	_, err = catalog.GetModel(call(t), &inferencev1.GetModelRequest{ModelId: "a b"})
	wantStatus(t, status.Convert(err), codes.InvalidArgument, fault.ModelIDInvalid, "", "model_id")
}

func TestReflection(t *testing.T) {
	for _, on := range []bool{true, false} {
		s := start(t, func(o *Options) { o.Reflection = on })
		stream, err := reflectionpb.NewServerReflectionClient(s.conn).ServerReflectionInfo(call(t))
		if err != nil {
			t.Fatal(err)
		}
		err = stream.Send(&reflectionpb.ServerReflectionRequest{MessageRequest: &reflectionpb.ServerReflectionRequest_ListServices{}})
		if err != nil && !errors.Is(err, io.EOF) {
			t.Fatal(err)
		}
		response, err := stream.Recv()
		if !on {
			wantStatus(t, status.Convert(err), codes.Unimplemented, fault.MethodUnimplemented, "")
			continue
		}
		var names []string
		for _, service := range response.GetListServicesResponse().GetService() {
			names = append(names, service.GetName())
		}
		if err != nil || !slices.Contains(names, "inference.v1.InferenceService") || !slices.Contains(names, "inference.v1.ModelInference") || !slices.Contains(names, "grpc.reflection.v1alpha.ServerReflection") {
			t.Errorf("got %v, %v", names, err)
		}
	}
}

// TestDrain shuts down with a call under way, a watch open and a caller who comes late.
func TestDrain(t *testing.T) {
	s := start(t, nil)
	done := make(chan error, 1)
	go func() {
		_, err := s.client.Predict(call(t), ask("slow", 1))
		done <- err
	}()
	<-s.entered
	watch, err := healthpb.NewHealthClient(s.conn).Watch(call(t), &healthpb.HealthCheckRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if first, err := watch.Recv(); err != nil || first.GetStatus() != serving {
		t.Fatalf("got %v, %v", first, err)
	}
	drained := make(chan bool, 1)
	go func() { drained <- s.Drain(context.Background(), 0, patience) }()
	if next, err := watch.Recv(); err != nil || next.GetStatus() != notServing {
		t.Errorf("the watch got %v, %v", next, err)
	}
	_, err = watch.Recv()
	wantStatus(t, status.Convert(err), codes.Unavailable, fault.ServerDraining, "the server is shutting down")
	in := &inference{server: s.Server}
	_, err = in.Predict(call(t), ask("echo", 1))
	if f := fault.From(err); f.Reason != fault.ServerDraining {
		t.Errorf("a late call: %v", err)
	}
	close(s.release)
	if err := <-done; err != nil {
		t.Errorf("the call under way: %v", err)
	}
	if !<-drained {
		t.Error("not all finished")
	}
	if _, err := net.DialTimeout("tcp", s.listener.Addr().String(), time.Second); err == nil {
		t.Error("the port still listens")
	}
}

func TestDrainEndsWithItsGrace(t *testing.T) {
	s := start(t, nil)
	done := make(chan error, 1)
	go func() {
		_, err := s.client.Predict(call(t), ask("slow", 1))
		done <- err
	}()
	<-s.entered
	if s.Drain(context.Background(), time.Millisecond, time.Millisecond) {
		t.Error("the slow call finished")
	}
	if err := <-done; err == nil {
		t.Error("the slow call was answered")
	}
}

func TestEveryReasonHasACode(t *testing.T) {
	for number, name := range inferencev1.ErrorReason_name {
		reason := fault.Reason(strings.TrimPrefix(name, "ERROR_REASON_"))
		if _, ok := table[reason]; ok != (number != 0) {
			t.Errorf("%s: %v", reason, ok)
		}
	}
	if len(table) != len(inferencev1.ErrorReason_name)-1 {
		t.Errorf("%d reasons in the table", len(table))
	}
}

func TestCallsEndBeforeTheirStreamIsReset(t *testing.T) {
	early := func(left time.Duration) time.Duration {
		ctx, cancel := context.WithTimeout(context.Background(), left)
		defer cancel()
		inner, cancelInner := beforeReset(ctx)
		defer cancelInner()
		outerEnd, _ := ctx.Deadline()
		innerEnd, ok := inner.Deadline()
		if !ok {
			t.Fatal("no deadline")
		}
		return outerEnd.Sub(innerEnd)
	}
	if got := early(time.Hour); got != 5*time.Millisecond {
		t.Errorf("of an hour: %v", got)
	}
	if got := early(10 * time.Millisecond); got > time.Millisecond {
		t.Errorf("of 10 ms: %v", got)
	}
	if got := early(-time.Second); got > 0 {
		t.Errorf("of a call that is late already: %v", got)
	}
	inner, cancel := beforeReset(context.Background())
	defer cancel()
	if _, ok := inner.Deadline(); ok {
		t.Error("a call without a deadline got one")
	}
}

func TestEqualFaultsAreEqualBytes(t *testing.T) {
	one := fault.Invalid(fault.FeatureMissing, "x", "expected a float, got nothing").At("m", "2")
	want, err := proto.Marshal(statusOf(one))
	if err != nil {
		t.Fatal(err)
	}
	for range 50 {
		if got, err := proto.Marshal(statusOf(one)); err != nil || !bytes.Equal(got, want) {
			t.Fatalf("got %x, want %x (%v)", got, want, err)
		}
	}
}

func TestLongVersionStaysOutOfMetadata(t *testing.T) {
	long := strings.Repeat("9", 1000)
	got := statusOf(fault.New(fault.VersionNotFound, "x").At("m", long))
	if info := wantStatus(t, status.FromProto(got), codes.NotFound, fault.VersionNotFound, "x"); info.GetMetadata()["model_version"] != "" || info.GetMetadata()["model_id"] != "m" {
		t.Errorf("got %v", info)
	}
}
