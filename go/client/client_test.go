// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"errors"
	"fmt"
	"math"
	"reflect"
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
	"google.golang.org/protobuf/types/known/durationpb"
)

const limit = 20 * time.Second // that a test waits for what should happen at once

func TestAnAnswerHoldsEverything(t *testing.T) {
	server := start(t)
	response := &inferencev1.PredictResponse{
		RequestId: "r1", ModelVersion: "7", Predictions: map[string]float32{"a": 0.1}, LatencyMs: 1.5, Seed: 9,
		Outputs: map[string]*inferencev1.FeatureValue{
			"label": stringValue("malignant"), "vector": floatArray([]float32{0.5, 1}), "count": intValue(1 << 62),
		},
		Timing: &inferencev1.Timing{QueueMs: 0.25, ComputeMs: 1, BatchRows: 8},
	}
	server.answer(func(context.Context, *inferencev1.PredictRequest) (*inferencev1.PredictResponse, error) {
		return response, nil
	})
	got, err := connect(t, server.address).Predict(t.Context(), "m", nil,
		Version("stable"), RequestID("r1"), Config(&inferencev1.InferenceConfig{TopK: 3}))
	if err != nil {
		t.Fatal(err)
	}
	if !proto.Equal(got.Proto, response) {
		t.Errorf("got %v", got.Proto)
	}
	got.Proto = nil
	want := &Answer{
		ModelID: "m", ModelVersion: "7", RequestID: "r1", Predictions: map[string]float32{"a": 0.1}, Seed: 9,
		Outputs: map[string]any{"label": "malignant", "vector": []float32{0.5, 1}, "count": int64(1 << 62)},
		Latency: 1500 * time.Microsecond,
		Timing:  Timing{Queue: 250 * time.Microsecond, Compute: time.Millisecond, BatchRows: 8},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if got.Label() != "malignant" {
		t.Errorf("got label %v", got.Label())
	}
	request := server.seen()[0].request.(*inferencev1.PredictRequest)
	if request.GetModelVersion() != "stable" || request.GetRequestId() != "r1" || request.GetConfig().GetTopK() != 3 {
		t.Errorf("got %v", request)
	}
}

func TestABatchGivesAnswersAndErrorsInOrder(t *testing.T) {
	server := start(t)
	server.catalog = failure(codes.Unimplemented, "METHOD_UNIMPLEMENTED", "")
	server.answer(func(_ context.Context, request *inferencev1.PredictRequest) (*inferencev1.PredictResponse, error) {
		if request.GetFeatures()["x"].GetFloatValue() < 0 {
			return nil, failure(codes.Internal, "MODEL_EXECUTION_FAILED", "no")
		}
		return &inferencev1.PredictResponse{RequestId: request.GetRequestId(), ModelVersion: "1"}, nil
	})
	c := connect(t, server.address)
	rows := []Features{{"x": 1.0}, {"x": -1.0}, {"x": nil}, {"x": 2.0}}
	results, err := c.PredictBatch(t.Context(), "m", rows, RequestID("a", "b", "c", "d"))
	if err != nil {
		t.Fatal(err)
	}
	for i, id := range map[int]string{0: "a", 3: "d"} {
		if results[i].Err != nil || results[i].Answer.RequestID != id {
			t.Errorf("row %d: got %+v", i, results[i])
		}
	}
	if e := asError(t, results[1].Err, codes.Internal); e.Reason != "MODEL_EXECUTION_FAILED" || e.Metadata["model_id"] != "m" {
		t.Errorf("got %+v", e)
	}
	e := asError(t, results[2].Err, codes.InvalidArgument)
	if e.Message != `feature "x": expected a value that can be sent, got nil` || e.Violations[0].Field != `features["x"]` {
		t.Errorf("got %+v", e)
	}
	// What cannot be sent is not sent.
	calls := server.seen()
	if n := len(calls[len(calls)-1].request.(*inferencev1.BatchPredictRequest).GetRequests()); n != 3 {
		t.Errorf("%d rows were sent, want 3", n)
	}
	if results, err := c.PredictBatch(t.Context(), "m", rows[2:3]); err != nil || results[0].Err == nil {
		t.Errorf("got %+v, %v", results, err)
	}
	if n := server.count("BatchPredict"); n != 1 {
		t.Errorf("%d batches were sent, want 1", n)
	}
	if _, err := c.PredictBatch(t.Context(), "m", rows, RequestID("a")); err == nil || !strings.Contains(err.Error(), "expected 4 request ids") {
		t.Errorf("got %v", err)
	}
}

func TestABatchAnswerThatBreaksTheContract(t *testing.T) {
	server := start(t)
	c := connect(t, server.address)
	server.batch = func(*inferencev1.BatchPredictRequest) (*inferencev1.BatchPredictResponse, error) {
		return &inferencev1.BatchPredictResponse{}, nil
	}
	if _, err := c.PredictBatch(t.Context(), "m", []Features{{}}); asError(t, err, codes.Internal) == nil {
		t.Error("no error")
	}
	server.batch = func(*inferencev1.BatchPredictRequest) (*inferencev1.BatchPredictResponse, error) {
		return &inferencev1.BatchPredictResponse{Results: []*inferencev1.BatchPredictResult{{}}}, nil
	}
	results, err := c.PredictBatch(t.Context(), "m", []Features{{}})
	if err != nil {
		t.Fatal(err)
	}
	asError(t, results[0].Err, codes.Internal)
	server.batch = func(r *inferencev1.BatchPredictRequest) (*inferencev1.BatchPredictResponse, error) {
		return nil, failure(codes.InvalidArgument, "BATCH_EMPTY", fmt.Sprint(len(r.GetRequests())))
	}
	if _, err := c.PredictBatch(t.Context(), "m", nil); asError(t, err, codes.InvalidArgument).Message != "0" {
		t.Errorf("got %v", err)
	}
}

func TestEveryViolationOfARowIsTold(t *testing.T) {
	server := start(t)
	row := Features{"z": 1.0, "bad \xff": 1}
	for i := range 20 {
		row[strconv.Itoa(100+i)] = nil
	}
	_, err := connect(t, server.address).Predict(t.Context(), "m", row)
	e := asError(t, err, codes.InvalidArgument)
	if len(e.Violations) != 16 || e.Violations[0].Field != `features["100"]` || e.Reason != "FEATURE_TYPE_MISMATCH" {
		t.Errorf("got %+v", e)
	}
	if want := `feature "100": expected a value that can be sent, got nil (and 15 more)`; e.Message != want {
		t.Errorf("got %q, want %q", e.Message, want)
	}
	if n := server.count("Predict"); n != 0 {
		t.Errorf("%d requests were sent", n)
	}
	_, err = connect(t, server.address).Predict(t.Context(), "m", Features{"bad \xff": 1})
	if e := asError(t, err, codes.InvalidArgument); !strings.Contains(e.Message, "expected a name in UTF-8") {
		t.Errorf("got %+v", e)
	}
}

func TestErrorsHoldAllDetails(t *testing.T) {
	server := start(t)
	server.answer(func(context.Context, *inferencev1.PredictRequest) (*inferencev1.PredictResponse, error) {
		bad := &errdetails.BadRequest{FieldViolations: []*errdetails.BadRequest_FieldViolation{
			{Field: `features["a"]`, Description: "a"}, {Field: `features["b"]`, Description: "b"},
		}}
		retry := &errdetails.RetryInfo{RetryDelay: durationpb.New(1500 * time.Millisecond)}
		return nil, failure(codes.InvalidArgument, "FEATURE_MISSING", "two",
			protoadapt.MessageV1Of(bad), protoadapt.MessageV1Of(retry))
	})
	_, err := connect(t, server.address).Predict(t.Context(), "m", nil)
	e := asError(t, err, codes.InvalidArgument)
	if e.Reason != "FEATURE_MISSING" || e.Message != "two" || e.RetryDelay != 1500*time.Millisecond || e.Metadata["model_id"] != "m" {
		t.Errorf("got %+v", e)
	}
	if want := []Violation{{`features["a"]`, "a"}, {`features["b"]`, "b"}}; !reflect.DeepEqual(e.Violations, want) {
		t.Errorf("got %+v", e.Violations)
	}
	if status.Code(err) != codes.InvalidArgument || len(status.Convert(err).Details()) != 3 {
		t.Errorf("got %v", status.Convert(err))
	}
	if want := "InvalidArgument FEATURE_MISSING: two"; err.Error() != want {
		t.Errorf("got %q", err.Error())
	}
}

func TestABrokenDetailIsLeftOut(t *testing.T) {
	broken := status.Convert(failure(codes.NotFound, "MODEL_NOT_FOUND", "m")).Proto()
	broken.Details[0].Value = []byte{0xff, 0xff}
	if e := errorFromProto(broken); e.Code != codes.NotFound || e.Message != "m" || e.Reason != "" {
		t.Errorf("got %+v", e)
	}
}

func TestModelsAndHealth(t *testing.T) {
	server := start(t)
	server.serve("m", nil, version("1", "a FLOAT"))
	c := connect(t, server.address)
	models, err := c.Models(t.Context())
	if err != nil || len(models) != 3 || models[2].GetModelId() != "c" {
		t.Errorf("got %v, %v", models, err)
	}
	if model, err := c.Model(t.Context(), "m"); err != nil || model.GetDefaultVersion() != "1" {
		t.Errorf("got %v, %v", model, err)
	}
	_, err = c.Model(t.Context(), "x")
	asError(t, err, codes.NotFound)
	for service, want := range map[string]Health{"": Serving, "models/m": NotServing} {
		if got, err := c.Check(t.Context(), service); err != nil || got != want {
			t.Errorf("%q: got %v, %v", service, got, err)
		}
	}
	_, err = c.Check(t.Context(), "models/x")
	asError(t, err, codes.NotFound)
}

// failing answers after failing with each of the codes in turn.
func failing(trailer metadata.MD, sequence ...codes.Code) predictFunc {
	var mu sync.Mutex
	return func(ctx context.Context, _ *inferencev1.PredictRequest) (*inferencev1.PredictResponse, error) {
		mu.Lock()
		defer mu.Unlock()
		if len(sequence) == 0 {
			return &inferencev1.PredictResponse{ModelVersion: "1"}, nil
		}
		code := sequence[0]
		sequence = sequence[1:]
		if err := grpc.SetTrailer(ctx, trailer); err != nil {
			return nil, err
		}
		return nil, status.Error(code, "scripted")
	}
}

func TestRetry(t *testing.T) {
	unavailable := []codes.Code{codes.Unavailable, codes.Unavailable, codes.Unavailable, codes.Unavailable, codes.Unavailable, codes.Unavailable}
	pushback := metadata.Pairs("grpc-retry-pushback-ms", "-1")
	for name, test := range map[string]struct {
		predict  predictFunc
		options  []Option
		code     codes.Code
		attempts int
	}{
		"not processed is sent again": {failing(nil, unavailable[:2]...), nil, codes.OK, 3},
		"retries end":                 {failing(nil, unavailable...), nil, codes.Unavailable, 5},
		"the server may forbid it":    {failing(pushback, unavailable[0]), nil, codes.Unavailable, 1},
		"so may the caller":           {failing(nil, unavailable[0]), []Option{WithoutRetry()}, codes.Unavailable, 1},
	} {
		t.Run(name, func(t *testing.T) {
			server := start(t)
			server.answer(test.predict)
			_, err := connect(t, server.address, test.options...).Predict(t.Context(), "m", nil)
			if status.Code(err) != test.code || server.count("Predict") != test.attempts {
				t.Errorf("got %v after %d attempts, want %v after %d", err, server.count("Predict"), test.code, test.attempts)
			}
		})
	}
	for code := codes.Canceled; code <= codes.Unauthenticated; code++ {
		if code == codes.Unavailable {
			continue
		}
		t.Run("not "+code.String(), func(t *testing.T) {
			server := start(t)
			server.answer(failing(metadata.Pairs("grpc-retry-pushback-ms", "1"), code))
			_, err := connect(t, server.address).Predict(t.Context(), "m", nil)
			if status.Code(err) != code || server.count("Predict") != 1 {
				t.Errorf("got %v after %d attempts", err, server.count("Predict"))
			}
		})
	}
}

func TestNobodyThere(t *testing.T) {
	_, err := connect(t, "127.0.0.1:1", WithoutRetry()).Predict(t.Context(), "m", nil)
	if e := asError(t, err, codes.Unavailable); e.Reason != "" {
		t.Errorf("got %+v", e)
	}
}

func TestTheServerKnowsTheDeadline(t *testing.T) {
	for name, test := range map[string]struct {
		options []Option
		own     time.Duration
		want    time.Duration
	}{
		"default":     {nil, 0, DefaultTimeout},
		"client's":    {[]Option{WithTimeout(7 * time.Second)}, 0, 7 * time.Second},
		"call's":      {[]Option{WithTimeout(7 * time.Second)}, 30 * time.Second, 30 * time.Second},
		"none at all": {[]Option{WithTimeout(0)}, 0, 0},
	} {
		t.Run(name, func(t *testing.T) {
			server := start(t)
			server.serve("m", nil, version("1", "x FLOAT"))
			ctx := t.Context()
			if test.own > 0 {
				var cancel context.CancelFunc
				ctx, cancel = context.WithTimeout(ctx, test.own)
				defer cancel()
			}
			began := time.Now()
			if _, err := connect(t, server.address, test.options...).Predict(ctx, "m", Features{"x": 1}); err != nil {
				t.Fatal(err)
			}
			if got := server.methods(0); got != "GetModel Predict" {
				t.Errorf("got %s", got)
			}
			for _, call := range server.seen() {
				left := call.deadline.Sub(began)
				if call.deadline.IsZero() {
					left = 0
				}
				if math.Abs((left - test.want).Seconds()) > 3 {
					t.Errorf("%s had %v, want %v", call.method, left, test.want)
				}
			}
		})
	}
}

// hanging waits until its call has ended, and tells when it began and ended.
func hanging() (predict predictFunc, began, ended chan struct{}) {
	began, ended = make(chan struct{}), make(chan struct{})
	return func(ctx context.Context, _ *inferencev1.PredictRequest) (*inferencev1.PredictResponse, error) {
		close(began)
		<-ctx.Done()
		close(ended)
		return nil, ctx.Err()
	}, began, ended
}

func wait(t *testing.T, what <-chan struct{}) {
	t.Helper()
	select {
	case <-what:
	case <-time.After(limit):
		t.Fatal("waited in vain")
	}
}

func TestTheDeadlineEndsACall(t *testing.T) {
	server := start(t)
	predict, _, ended := hanging()
	server.answer(predict)
	_, err := connect(t, server.address, WithTimeout(200*time.Millisecond)).Predict(t.Context(), "m", nil)
	asError(t, err, codes.DeadlineExceeded)
	if !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	wait(t, ended)
}

func TestCancellingEndsACall(t *testing.T) {
	for name, byClosing := range map[string]bool{"the context": false, "the client": true} {
		t.Run(name, func(t *testing.T) {
			server := start(t)
			predict, began, ended := hanging()
			server.answer(predict)
			c := connect(t, server.address)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			failed := make(chan error, 1)
			go func() {
				_, err := c.Predict(ctx, "m", nil)
				failed <- err
			}()
			wait(t, began)
			if byClosing {
				if err := c.Close(); err != nil {
					t.Error(err)
				}
			} else {
				cancel()
			}
			err := <-failed
			asError(t, err, codes.Canceled)
			if !errors.Is(err, context.Canceled) {
				t.Errorf("got %v", err)
			}
			wait(t, ended)
		})
	}
}

func TestGoroutinesShareAClient(t *testing.T) {
	server := start(t)
	server.serve("m", nil, version("1", "x FLOAT"))
	c := connect(t, server.address)
	var group sync.WaitGroup
	for i := range 200 {
		group.Go(func() {
			id := strconv.Itoa(i)
			answer, err := c.Predict(t.Context(), "m", Features{"x": i}, RequestID(id))
			if err != nil || answer.RequestID != id {
				t.Errorf("got %+v, %v", answer, err)
			}
		})
	}
	group.Wait()
}

func TestLargeMessages(t *testing.T) {
	server := start(t)
	server.answer(func(_ context.Context, request *inferencev1.PredictRequest) (*inferencev1.PredictResponse, error) {
		return &inferencev1.PredictResponse{Outputs: request.GetFeatures()}, nil
	})
	row := Features{"x": stringValue(strings.Repeat("x", 8<<20))} // gRPC's own limit is 4 MiB
	if _, err := connect(t, server.address).Predict(t.Context(), "m", row); err != nil {
		t.Error(err)
	}
	_, err := connect(t, server.address, WithMaxMessageBytes(1<<20)).Predict(t.Context(), "m", row)
	asError(t, err, codes.ResourceExhausted)
	server.answer(func(context.Context, *inferencev1.PredictRequest) (*inferencev1.PredictResponse, error) {
		return &inferencev1.PredictResponse{RequestId: strings.Repeat("x", 5000)}, nil
	})
	_, err = connect(t, server.address, WithMaxMessageBytes(1000)).Predict(t.Context(), "m", nil)
	asError(t, err, codes.ResourceExhausted)
}
