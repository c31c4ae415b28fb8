// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"fmt"
	"math"
	"strings"
	"testing"

	inferencev1 "github.com/concord-inference/concord/go/gen/inference/v1"
	"google.golang.org/grpc/codes"
)

// predict asks model m for one prediction that has to succeed.
func predict(t *testing.T, c *Client, features Features, options ...PredictOption) *Answer {
	t.Helper()
	answer, err := c.Predict(t.Context(), "m", features, options...)
	if err != nil {
		t.Fatal(err)
	}
	return answer
}

func expectMethods(t *testing.T, server *fakeServer, since int, want string) {
	t.Helper()
	if got := server.methods(since); got != want {
		t.Errorf("got calls %q, want %q", got, want)
	}
}

// strict makes the default version refuse every other kind of value.
func strict(server *fakeServer, want string) {
	answer := server.current()
	server.answer(func(ctx context.Context, request *inferencev1.PredictRequest) (*inferencev1.PredictResponse, error) {
		for name, value := range request.GetFeatures() {
			if got := kindOf(value); got != want {
				return nil, failure(codes.InvalidArgument, "FEATURE_TYPE_MISMATCH", fmt.Sprintf("feature %q: expected %s, got %s", name, want, got))
			}
		}
		return answer(ctx, request)
	})
}

func TestTheCatalogIsAskedOnce(t *testing.T) {
	server := start(t)
	server.serve("m", map[string]string{"stable": "1"}, version("1", "a FLOAT"), version("2", "a INT64"))
	c := connect(t, server.address)
	for _, test := range [][2]string{{"", "int64_value"}, {"1", "float_value"}, {"2", "int64_value"}, {"stable", "float_value"}} {
		predict(t, c, Features{"a": 1}, Version(test[0]))
		if got := kindOf(server.sent("a")); got != test[1] {
			t.Errorf("version %q: got %s, want %s", test[0], got, test[1])
		}
	}
	if _, err := c.PredictBatch(t.Context(), "m", []Features{{"a": 1}, {"a": 2}}); err != nil {
		t.Fatal(err)
	}
	expectMethods(t, server, 0, "GetModel Predict Predict Predict Predict BatchPredict")
}

func TestExplicitValuesNeedNoCatalog(t *testing.T) {
	server := start(t)
	server.serve("m", nil, version("1", "a DOUBLE"))
	predict(t, connect(t, server.address), Features{"a": intValue(1)})
	expectMethods(t, server, 0, "Predict")
}

func TestANewVersionThatRefusesTheOldKind(t *testing.T) {
	server := start(t)
	server.serve("m", nil, version("1", "age FLOAT"))
	c := connect(t, server.address)
	predict(t, c, Features{"age": 42})
	server.serve("m", nil, version("1", "age FLOAT"), version("2", "age INT64"))
	strict(server, "int64_value")
	if answer := predict(t, c, Features{"age": 42}); answer.ModelVersion != "2" {
		t.Errorf("got %+v", answer)
	}
	predict(t, c, Features{"age": 43})
	expectMethods(t, server, 2, "Predict GetModel Predict Predict")
}

// A DOUBLE takes a float_value: without a second look the answer would be one to a rounded question.
func TestANewVersionThatWouldTakeLess(t *testing.T) {
	server := start(t)
	server.serve("m", nil, version("1", "age FLOAT"))
	c := connect(t, server.address)
	predict(t, c, Features{"age": 0.1})
	server.serve("m", nil, version("1", "age FLOAT"), version("2", "age DOUBLE"))
	predict(t, c, Features{"age": 0.1})
	expectMethods(t, server, 2, "Predict GetModel Predict")
	if got := server.sent("age").GetDoubleValue(); got != 0.1 {
		t.Errorf("got %v", got)
	}
}

func TestANewVersionWithTheSameFeaturesCostsOneLook(t *testing.T) {
	server := start(t)
	server.serve("m", nil, version("1", "age FLOAT"))
	c := connect(t, server.address)
	predict(t, c, Features{"age": 1})
	server.serve("m", nil, version("1", "age FLOAT"), version("2", "age FLOAT"))
	predict(t, c, Features{"age": math.NaN()})
	predict(t, c, Features{"age": 1})
	expectMethods(t, server, 2, "Predict GetModel Predict")
}

// Two servers behind one address, one a version ahead.
func TestVersionsThatTakeTurnsCostNothing(t *testing.T) {
	server := start(t)
	server.serve("m", nil, version("1", "age FLOAT"), version("2", "age FLOAT"))
	c := connect(t, server.address)
	predict(t, c, Features{"age": 1})
	for _, number := range []string{"1", "2", "1", "2"} {
		server.answer(func(context.Context, *inferencev1.PredictRequest) (*inferencev1.PredictResponse, error) {
			return &inferencev1.PredictResponse{ModelVersion: number}, nil
		})
		predict(t, c, Features{"age": 1})
	}
	expectMethods(t, server, 1, "Predict Predict Predict Predict Predict")
}

func TestAMovedLabel(t *testing.T) {
	server := start(t)
	versions := []*inferencev1.ModelVersion{version("1", "a FLOAT"), version("2", "a DOUBLE")}
	server.serve("m", map[string]string{"stable": "1"}, versions...)
	c := connect(t, server.address)
	predict(t, c, Features{"a": 1}, Version("stable"))
	server.serve("m", map[string]string{"stable": "2"}, versions...)
	predict(t, c, Features{"a": 1}, Version("stable"))
	predict(t, c, Features{"a": 1}, Version("stable"))
	if got := kindOf(server.sent("a")); got != "double_value" {
		t.Errorf("got %s", got)
	}
	expectMethods(t, server, 0, "GetModel Predict Predict Predict Predict")
}

func TestOnlyTheRowsThatNeedItAreSentAgain(t *testing.T) {
	server := start(t)
	server.serve("m", nil, version("1", "age FLOAT"))
	c := connect(t, server.address)
	predict(t, c, Features{"age": 1})
	server.serve("m", nil, version("1", "age FLOAT"), version("2", "age INT64"))
	strict(server, "int64_value")
	rows := []Features{{"age": 1}, {"age": intValue(2)}, {"age": 0.5}, {"age": nil}, {"age": 3}}
	results, err := c.PredictBatch(t.Context(), "m", rows, RequestID("a", "b", "c", "d", "e"))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, result := range results {
		if result.Err == nil {
			got = append(got, result.Answer.RequestID)
		} else {
			got = append(got, asError(t, result.Err, codes.InvalidArgument).Reason)
		}
	}
	if want := "a b FEATURE_TYPE_MISMATCH FEATURE_TYPE_MISMATCH e"; strings.Join(got, " ") != want {
		t.Errorf("got %s, want %s", got, want)
	}
	var sizes []int
	for _, call := range server.seen() {
		if batch, is := call.request.(*inferencev1.BatchPredictRequest); is {
			sizes = append(sizes, len(batch.GetRequests()))
		}
	}
	if fmt.Sprint(sizes) != "[4 2]" {
		t.Errorf("batches of %v, want [4 2]", sizes)
	}
}

func TestARowRefusedForAnOldShape(t *testing.T) {
	server := start(t)
	server.serve("m", nil, version("1", "image FLOAT 2 3"))
	c := connect(t, server.address)
	predict(t, c, Features{"image": [2][3]float32{}})
	server.serve("m", nil, version("2", "image FLOAT 3 2"))
	predict(t, c, Features{"image": [3][2]float32{}})
	_, err := c.Predict(t.Context(), "m", Features{"image": [2][3]float32{}})
	if e := asError(t, err, codes.InvalidArgument); e.Reason != "FEATURE_SHAPE_MISMATCH" {
		t.Errorf("got %v", e)
	}
}

func TestAnUnknownModelIsTheServersToRefuse(t *testing.T) {
	server := start(t)
	server.answer(func(context.Context, *inferencev1.PredictRequest) (*inferencev1.PredictResponse, error) {
		return nil, failure(codes.NotFound, "MODEL_NOT_FOUND", `model "m" not found`)
	})
	c := connect(t, server.address)
	_, err := c.Predict(t.Context(), "m", Features{"a": 1})
	asError(t, err, codes.NotFound)
	expectMethods(t, server, 0, "GetModel Predict")
	server.serve("m", nil, version("1", "a FLOAT"))
	predict(t, c, Features{"a": 1})
	if got := kindOf(server.sent("a")); got != "float_value" {
		t.Errorf("got %s", got)
	}
}

func TestAServerWithoutACatalog(t *testing.T) {
	for _, code := range []codes.Code{codes.Unimplemented, codes.PermissionDenied} {
		server := start(t)
		server.catalog = failure(code, "X", "")
		c := connect(t, server.address)
		predict(t, c, Features{"i": 1, "f": 0.5})
		predict(t, c, Features{"i": 1, "f": 0.5})
		if kindOf(server.sent("i")) != "int64_value" || kindOf(server.sent("f")) != "float_value" {
			t.Errorf("got %v, %v", server.sent("i"), server.sent("f"))
		}
		expectMethods(t, server, 0, "GetModel Predict Predict")
	}
}

func TestACatalogOutOfOrderFailsTheCall(t *testing.T) {
	server := start(t)
	server.catalog = failure(codes.Unavailable, "SERVER_DRAINING", "the server is shutting down")
	_, err := connect(t, server.address, WithoutRetry()).Predict(t.Context(), "m", Features{"a": 1})
	if e := asError(t, err, codes.Unavailable); e.Reason != "SERVER_DRAINING" {
		t.Errorf("got %v", e)
	}
	expectMethods(t, server, 0, "GetModel")
}

// A foreign server, perhaps, that leaves model_version empty: it is not asked for its catalog for ever.
func TestAVersionThatTheCatalogNeverTells(t *testing.T) {
	server := start(t)
	server.serve("m", nil, version("1", "a DOUBLE"))
	server.answer(func(context.Context, *inferencev1.PredictRequest) (*inferencev1.PredictResponse, error) {
		return &inferencev1.PredictResponse{}, nil
	})
	c := connect(t, server.address)
	for range 4 {
		predict(t, c, Features{"a": 1})
	}
	if looks, asked := server.count("GetModel"), server.count("Predict"); looks > 2 || asked > 5 {
		t.Errorf("%d looks, %d predictions", looks, asked)
	}
}
