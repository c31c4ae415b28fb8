// SPDX-License-Identifier: Apache-2.0

package server

import (
	"bytes"
	"fmt"
	"regexp"
	"slices"
	"testing"

	inferencev1 "github.com/concord-inference/concord/go/gen/inference/v1"
	"github.com/concord-inference/concord/go/internal/fault"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// floats is a tensor of zeros, or of the bytes given.
func floats(length int64, data ...byte) *inferencev1.Tensor {
	if len(data) == 0 {
		data = make([]byte, 4*length)
	}
	return &inferencev1.Tensor{Dtype: inferencev1.DataType_DATA_TYPE_FLOAT, Shape: []int64{length}, Data: data}
}

func askTensors(id string, x *inferencev1.Tensor, outputs ...string) *inferencev1.PredictionRequest {
	return &inferencev1.PredictionRequest{ModelId: id, Inputs: map[string]*inferencev1.Tensor{"x": x}, OutputNames: outputs}
}

func TestTensorPredict(t *testing.T) {
	s := start(t, nil)
	client := inferencev1.NewModelInferenceClient(s.conn)
	signalling := []byte{1, 0, 0x80, 0x7f, 0, 0, 0, 0x80} // a signalling NaN, then -0.0
	for name, c := range map[string]struct {
		x    *inferencev1.Tensor
		rows int32
	}{
		"bits":  {floats(2, signalling...), 2},
		"empty": {floats(0), 1},
		"many":  {floats(10000), 10000},
	} {
		for _, outputs := range [][]string{nil, {"y"}} {
			request := askTensors("echo", c.x, outputs...)
			request.ModelVersion, request.RequestId = "stable", "Größe \x01 1"
			response, err := client.Predict(call(t), request)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			y := response.GetOutputs()["y"]
			if len(response.GetOutputs()) != 1 || y.GetDtype() != c.x.Dtype || !slices.Equal(y.GetShape(), c.x.Shape) || !bytes.Equal(y.GetData(), c.x.Data) ||
				response.GetRequestId() != request.RequestId || response.GetModelVersion() != "3" || response.GetTiming().GetBatchRows() != c.rows {
				t.Errorf("%s: got %v", name, response)
			}
		}
	}
	response, err := client.Predict(call(t), askTensors("wide", &inferencev1.Tensor{Dtype: 1, Shape: []int64{2, 0, 5}}))
	if err != nil || !regexp.MustCompile("^[0-9a-f]{32}$").MatchString(response.GetRequestId()) || !slices.Equal(response.GetOutputs()["y"].GetShape(), []int64{2, 0, 5}) {
		t.Errorf("a model that takes tensors only: got %v, %v", response, err)
	}
}

func TestTensorPredictErrors(t *testing.T) {
	s := start(t, nil)
	client := inferencev1.NewModelInferenceClient(s.conn)
	x := floats(1)
	with := func(change func(*inferencev1.PredictionRequest)) *inferencev1.PredictionRequest {
		request := askTensors("echo", x)
		change(request)
		return request
	}
	for name, c := range map[string]struct {
		request *inferencev1.PredictionRequest
		code    codes.Code
		reason  fault.Reason
		message string
		fields  []string
	}{
		"no id":      {&inferencev1.PredictionRequest{}, codes.InvalidArgument, fault.ModelIDInvalid, "", []string{"model_id"}},
		"no model":   {askTensors("nobody", x), codes.NotFound, fault.ModelNotFound, `model "nobody" not found`, nil},
		"no version": {with(func(r *inferencev1.PredictionRequest) { r.ModelVersion = "7" }), codes.NotFound, fault.VersionNotFound, `model "echo" has no version 7`, nil},
		"broken":     {askTensors("broken", x), codes.FailedPrecondition, fault.ModelFailed, "", nil},
		"missing": {
			with(func(r *inferencev1.PredictionRequest) { r.Inputs = nil }),
			codes.InvalidArgument, fault.TensorMissing, `input "x": expected a float tensor, got nothing`, []string{`inputs["x"]`},
		},
		"dtype": {
			askTensors("echo", &inferencev1.Tensor{Dtype: 11, Shape: []int64{1}, Data: make([]byte, 8)}),
			codes.InvalidArgument, fault.TensorDTypeMismatch, `input "x": expected dtype FLOAT, got DOUBLE`, []string{`inputs["x"].dtype`},
		},
		"shape": {
			askTensors("echo", &inferencev1.Tensor{Dtype: 1, Shape: []int64{1, 1}, Data: make([]byte, 4)}),
			codes.InvalidArgument, fault.TensorShapeMismatch, `input "x": expected shape [?], got [1, 1]`, []string{`inputs["x"].shape`},
		},
		"all together": {
			with(func(r *inferencev1.PredictionRequest) {
				r.Inputs = map[string]*inferencev1.Tensor{"x": floats(1, 0, 0, 0), "z": x, "b\n": x}
				r.OutputNames = []string{"y", "nothing", "y"}
			}),
			codes.InvalidArgument, fault.TensorDataInvalid, `input "x": expected 4 bytes of data, got 3 (and 4 more)`,
			[]string{`inputs["x"].data`, `inputs["b\n"]`, `inputs["z"]`, "output_names[1]", "output_names[2]"},
		},
		"output unknown": {
			askTensors("echo", x, "y", "q"), codes.InvalidArgument, fault.OutputUnknown,
			`output_names[1]: the model has no output "q"`, []string{"output_names[1]"},
		},
		"output twice": {
			askTensors("echo", x, "y", "y"), codes.InvalidArgument, fault.OutputUnknown, `output_names[1]: "y" is there already`, []string{"output_names[1]"},
		},
		"fails": {
			askTensors("fail", x), codes.Internal, fault.ModelExecutionFailed, `model "fail" version 3 failed on this input: Gather at <...> out of bounds`, nil,
		},
		"panics": {askTensors("panic", x), codes.Internal, fault.Internal, "internal error", nil},
		"too large": {
			askTensors("big", x), codes.ResourceExhausted, fault.OutputTooLarge, "the answer of 4194304 bytes is larger than the limit of 1048576 bytes", nil,
		},
	} {
		_, err := client.Predict(call(t), c.request)
		t.Log(name)
		wantStatus(t, status.Convert(err), c.code, c.reason, c.message, c.fields...)
	}
	many := with(func(r *inferencev1.PredictionRequest) {
		for i := range 1000 {
			r.OutputNames = append(r.OutputNames, fmt.Sprint("n", i))
		}
	})
	_, err := client.Predict(call(t), many)
	if got := status.Convert(err); got.Message() != `output_names[0]: the model has no output "n0" (and 999 more)` ||
		len(got.Details()[1].(*errdetails.BadRequest).GetFieldViolations()) > fault.MaxViolations {
		t.Errorf("got %v", got)
	}
	if response, err := client.Predict(call(t), askTensors("echo", x)); err != nil || len(response.GetOutputs()) != 1 {
		t.Errorf("afterwards: got %v, %v", response, err)
	}
}

// TestTensorAnswerAtTheLimit asks for the largest answer that may be sent, and for one of a float more.
func TestTensorAnswerAtTheLimit(t *testing.T) {
	const limit = 1 << 16
	s := start(t, func(o *Options) { o.MaxMessageBytes = limit })
	client := inferencev1.NewModelInferenceClient(s.conn)
	request := askTensors("echo", floats(100))
	request.RequestId = "id"
	response, err := client.Predict(call(t), request)
	if err != nil {
		t.Fatal(err)
	}
	// The lengths on the way grow by some bytes; the floats that just fit are found from the size itself.
	fits := int64(100 + (limit-proto.Size(response))/4)
	for ; fits > 0; fits-- {
		response.Outputs["y"] = floats(fits)
		response.Timing.BatchRows = int32(fits)
		if proto.Size(response) <= limit {
			break
		}
	}
	request.Inputs["x"] = floats(fits)
	if response, err = client.Predict(call(t), request); err != nil || proto.Size(response) > limit || proto.Size(response) < limit-3 {
		t.Fatalf("%d floats: got %d bytes, %v", fits, proto.Size(response), err)
	}
	size := proto.Size(response) + 4
	request.Inputs["x"] = floats(fits + 1)
	if proto.Size(request) > limit {
		t.Fatalf("the request itself is too large: %d bytes", proto.Size(request))
	}
	_, err = client.Predict(call(t), request)
	wantStatus(t, status.Convert(err), codes.ResourceExhausted, fault.OutputTooLarge,
		fmt.Sprintf("the answer of %d bytes is larger than the limit of %d bytes", size, limit))
}

func TestTensorBatchPredict(t *testing.T) {
	s := start(t, nil)
	client := inferencev1.NewModelInferenceClient(s.conn)
	one := floats(1, 0, 0, 0x80, 0x3f)
	response, err := client.BatchPredict(call(t), &inferencev1.BatchPredictionRequest{Requests: []*inferencev1.PredictionRequest{
		askTensors("echo", one), askTensors("nobody", one), askTensors("big", one), askTensors("fail", one), askTensors("echo", floats(3)), nil,
	}})
	if err != nil {
		t.Fatal(err)
	}
	want := []fault.Reason{"", fault.ModelNotFound, fault.OutputTooLarge, fault.ModelExecutionFailed, "", fault.ModelIDInvalid}
	for i, result := range response.GetResults() {
		if want[i] != "" {
			info := &errdetails.ErrorInfo{}
			if err := result.GetError().GetDetails()[0].UnmarshalTo(info); err != nil || info.GetReason() != string(want[i]) {
				t.Errorf("result %d: got %v, %v", i, result, err)
			}
			continue
		}
		if result.GetResponse() == nil {
			t.Errorf("result %d: got %v", i, result)
		}
	}
	if len(response.GetResults()) != len(want) ||
		!bytes.Equal(response.GetResults()[0].GetResponse().GetOutputs()["y"].GetData(), one.Data) ||
		response.GetResults()[4].GetResponse().GetTiming().GetBatchRows() != 3 {
		t.Errorf("got %v", response)
	}
	_, err = client.BatchPredict(call(t), &inferencev1.BatchPredictionRequest{})
	wantStatus(t, status.Convert(err), codes.InvalidArgument, fault.BatchEmpty, "requests: expected at least 1 request, got 0", "requests")
	_, err = client.BatchPredict(call(t), &inferencev1.BatchPredictionRequest{Requests: make([]*inferencev1.PredictionRequest, 101)})
	wantStatus(t, status.Convert(err), codes.InvalidArgument, fault.BatchTooLarge, "requests: expected at most 100 requests, got 101", "requests")

	// Each answer may be sent, all of them may not: an answer is longer than its request.
	many := &inferencev1.BatchPredictionRequest{}
	for range 50 {
		many.Requests = append(many.Requests, askTensors("echo", floats(600)))
	}
	limited := start(t, func(o *Options) { o.MaxMessageBytes = proto.Size(many) })
	client = inferencev1.NewModelInferenceClient(limited.conn)
	_, err = client.BatchPredict(call(t), many)
	wantStatus(t, status.Convert(err), codes.ResourceExhausted, fault.OutputTooLarge, "")
	many.Requests = many.Requests[:40]
	if response, err := client.BatchPredict(call(t), many); err != nil || len(response.GetResults()) != 40 {
		t.Errorf("fewer: got %v", err)
	}
}

func TestTensorsWhileDraining(t *testing.T) {
	s := start(t, nil)
	s.draining.Store(true)
	client := inferencev1.NewModelInferenceClient(s.conn)
	_, err := client.Predict(call(t), askTensors("echo", floats(1)))
	wantStatus(t, status.Convert(err), codes.Unavailable, fault.ServerDraining, "the server is shutting down")
	_, err = client.BatchPredict(call(t), &inferencev1.BatchPredictionRequest{})
	wantStatus(t, status.Convert(err), codes.Unavailable, fault.ServerDraining, "the server is shutting down")
}
