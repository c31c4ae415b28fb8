// SPDX-License-Identifier: Apache-2.0

package model_test

import (
	"context"
	"errors"
	"math"
	"runtime"
	"slices"
	"strings"
	"testing"

	inferencev1 "github.com/concord-inference/concord/go/gen/inference/v1"
	"github.com/concord-inference/concord/go/internal/fault"
	"github.com/concord-inference/concord/go/internal/model"
	"github.com/concord-inference/concord/go/internal/modeltest"
	"github.com/concord-inference/concord/go/internal/tensor"
)

func TestNames(t *testing.T) {
	for _, c := range []struct {
		id, version string
		want        fault.Reason
		message     string
	}{
		{"a", "", "", ""},
		{"breast-cancer_2.1", "12", "", ""},
		{strings.Repeat("x", 128), "stable", "", ""},
		{"a", strings.Repeat("9", 500), "", ""},
		{"a", "l" + strings.Repeat("-", 62), "", ""},
		{"", "", fault.ModelIDInvalid, `model_id: expected [A-Za-z0-9][A-Za-z0-9._-]{0,127}, got nothing`},
		{"a/b", "", fault.ModelIDInvalid, `model_id: expected [A-Za-z0-9][A-Za-z0-9._-]{0,127}, got "a/b"`},
		{"../x", "", fault.ModelIDInvalid, ""},
		{".a", "", fault.ModelIDInvalid, ""},
		{"a\x00b", "", fault.ModelIDInvalid, `model_id: expected [A-Za-z0-9][A-Za-z0-9._-]{0,127}, got "a\u0000b"`},
		{"a\n", "", fault.ModelIDInvalid, ""},
		{"ä", "", fault.ModelIDInvalid, ""},
		{strings.Repeat("x", 129), "", fault.ModelIDInvalid, ""},
		{"a", "01", fault.ModelVersionInvalid, `model_version: expected a positive integer without leading zeros or a label [a-z][a-z0-9-]{0,62}, got "01"`},
		{"a", "0", fault.ModelVersionInvalid, ""},
		{"a", "-1", fault.ModelVersionInvalid, ""},
		{"a", "1.0", fault.ModelVersionInvalid, ""},
		{"a", "Stable", fault.ModelVersionInvalid, ""},
		{"a", "1\n", fault.ModelVersionInvalid, ""},
		{"a", "l" + strings.Repeat("-", 63), fault.ModelVersionInvalid, ""},
		{"a", "١", fault.ModelVersionInvalid, ""},
	} {
		f := model.CheckName(c.id, c.version)
		if (f == nil) != (c.want == "") || f != nil && (f.Reason != c.want || c.message != "" && f.Message != c.message) {
			t.Errorf("%.20q %.20q: got %+v", c.id, c.version, f)
		}
	}
}

func TestCompareVersions(t *testing.T) {
	versions := []string{"10", "9", "1", "100000000000000000000000", "2"}
	slices.SortFunc(versions, model.CompareVersions)
	if want := []string{"1", "2", "9", "10", "100000000000000000000000"}; !slices.Equal(versions, want) {
		t.Errorf("got %v", versions)
	}
}

func FuzzNames(f *testing.F) {
	for _, seed := range []string{"a", "1", "01", "stable", "../x", strings.Repeat("a", 200)} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if (model.IsID(text) || model.IsVersion(text) || model.IsLabel(text)) && strings.ContainsAny(text, "/\\\x00 \n\"") {
			t.Errorf("%q is a name", text)
		}
		if model.IsVersion(text) && model.IsLabel(text) {
			t.Errorf("%q is both", text)
		}
	})
}

func TestCheckConfig(t *testing.T) {
	nan, inf := float32(math.NaN()), float32(math.Inf(1))
	for _, c := range []struct {
		config *inferencev1.InferenceConfig
		want   string
	}{
		{nil, ""},
		{&inferencev1.InferenceConfig{Temperature: 100, TopP: 1, MaxTokens: math.MaxInt32, TopK: math.MaxInt32, Stop: []string{"x"}}, ""},
		{&inferencev1.InferenceConfig{TopP: 1.5}, "config.top_p: expected 0 to 1, got 1.5"},
		{&inferencev1.InferenceConfig{TopP: nan}, "config.top_p: expected 0 to 1, got nan"},
		{&inferencev1.InferenceConfig{Temperature: -0.1}, "config.temperature: expected 0 to 100, got -0.1"},
		{&inferencev1.InferenceConfig{Temperature: inf}, "config.temperature: expected 0 to 100, got inf"},
		{&inferencev1.InferenceConfig{MaxTokens: -1}, "config.max_tokens: expected 0 to 2147483647, got -1"},
		{&inferencev1.InferenceConfig{TopK: -2}, "config.top_k: expected 0 to 2147483647, got -2"},
		{&inferencev1.InferenceConfig{Stop: []string{""}}, "config.stop[0]: expected a text, got nothing"},
		{&inferencev1.InferenceConfig{Stop: make([]string, 17)}, "config.stop: expected at most 16 texts, got 17"},
		{&inferencev1.InferenceConfig{Temperature: 101, TopP: 2, TopK: -1}, "config.temperature: expected 0 to 100, got 101 (and 2 more)"},
	} {
		f := model.CheckConfig(c.config)
		if (f == nil) != (c.want == "") || f != nil && (f.Message != c.want || f.Reason != fault.ConfigInvalid) {
			t.Errorf("%v: got %v, want %q", c.config, f, c.want)
		}
	}
}

func newModel(session *modeltest.Session) *model.Model {
	return model.New("m", "3", inferencev1.ModelKind_MODEL_KIND_TENSOR, session, nil, true, 0)
}

func TestDecodeTensors(t *testing.T) {
	m := newModel(&modeltest.Session{In: []tensor.Spec{
		{Name: "x", DType: tensor.Float32, Shape: []int64{-1, 2}}, {Name: "any", DType: tensor.Bool, Unranked: true},
	}})
	x := &inferencev1.Tensor{Dtype: 1, Shape: []int64{1, 2}, Data: make([]byte, 8)}
	truth := &inferencev1.Tensor{Dtype: 9, Data: []byte{1}}
	inputs, _, f := model.DecodeTensors(m, map[string]*inferencev1.Tensor{"any": truth, "x": x}, nil)
	if f != nil || inputs[0].DType != tensor.Float32 || inputs[1].Len() != 1 {
		t.Fatalf("got %v, %v", inputs, f)
	}
	for name, c := range map[string]struct {
		messages map[string]*inferencev1.Tensor
		reason   fault.Reason
		message  string
	}{
		"missing": {map[string]*inferencev1.Tensor{"any": truth}, fault.TensorMissing, `input "x": expected a float tensor, got nothing`},
		"unknown": {map[string]*inferencev1.Tensor{"any": truth, "x": x, "y": x}, fault.TensorUnknown, `input "y": the model has no such input`},
		"dtype":   {map[string]*inferencev1.Tensor{"any": x, "x": x}, fault.TensorDTypeMismatch, `input "any": expected dtype BOOL, got FLOAT`},
		"rank":    {map[string]*inferencev1.Tensor{"any": truth, "x": {Dtype: 1, Shape: []int64{2}, Data: make([]byte, 8)}}, fault.TensorShapeMismatch, `input "x": expected shape [?, 2], got [2]`},
		"length":  {map[string]*inferencev1.Tensor{"any": truth, "x": {Dtype: 1, Shape: []int64{2, 1}, Data: make([]byte, 8)}}, fault.TensorShapeMismatch, `input "x": expected shape [?, 2], got [2, 1]`},
		"all":     {map[string]*inferencev1.Tensor{"b": x, "a": x}, fault.TensorMissing, `input "x": expected a float tensor, got nothing (and 3 more)`},
	} {
		if _, _, f := model.DecodeTensors(m, c.messages, nil); f == nil || f.Reason != c.reason || f.Message != c.message {
			t.Errorf("%s: got %+v", name, f)
		}
	}
}

func TestRun(t *testing.T) {
	session := &modeltest.Session{}
	m := newModel(session)
	one := []tensor.Tensor{tensor.Make(tensor.Bool, nil)}
	if out, elapsed, err := m.Run(context.Background(), one, []int{0}); err != nil || len(out) != 1 || elapsed.Compute < 0 || elapsed.Queue < 0 {
		t.Fatalf("got %v, %v, %v", out, elapsed, err)
	}
	session.Do = func(context.Context, []tensor.Tensor) ([]tensor.Tensor, error) {
		return nil, errors.New("node at /secret/file.cc broke")
	}
	_, _, err := m.Run(context.Background(), one, []int{0})
	f := fault.From(err)
	if f.Reason != fault.ModelExecutionFailed || f.Message != `model "m" version 3 failed on this input: node at <...> broke` || f.ModelID != "m" {
		t.Errorf("got %+v", f)
	}
}

func TestEndedCallsDoNotRun(t *testing.T) {
	session := &modeltest.Session{}
	m := newModel(session)
	cancelled, cancel := context.WithCancel(context.Background())
	cancel()
	late, cancelLate := context.WithTimeout(context.Background(), 0)
	defer cancelLate()
	for ctx, want := range map[context.Context]fault.Reason{cancelled: fault.Cancelled, late: fault.DeadlineExceeded} {
		if _, _, err := m.Run(ctx, nil, nil); fault.From(err).Reason != want {
			t.Errorf("got %v, want %s", err, want)
		}
	}
	if session.Runs.Load() != 0 {
		t.Error("the session ran")
	}
}

// TestExecutorsAreBounded fills all executors; the next caller waits, and stops waiting when its context ends.
func TestExecutorsAreBounded(t *testing.T) {
	executors := runtime.GOMAXPROCS(0)
	started, finish := make(chan struct{}), make(chan struct{})
	session := &modeltest.Session{Do: func(ctx context.Context, in []tensor.Tensor) ([]tensor.Tensor, error) {
		started <- struct{}{}
		<-finish
		return in, ctx.Err()
	}}
	m := newModel(session)
	done := make(chan error)
	for range executors {
		go func() {
			_, _, err := m.Run(context.Background(), nil, nil)
			done <- err
		}()
	}
	for range executors {
		<-started
	}
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		_, _, err := m.Run(ctx, nil, nil)
		done <- err
	}()
	cancel()
	if err := <-done; fault.From(err).Reason != fault.Cancelled {
		t.Errorf("the waiting call got %v", err)
	}
	if ran := session.Runs.Load(); ran != int64(executors) {
		t.Errorf("%d runs at once, want %d", ran, executors)
	}
	close(finish)
	for range executors {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

func TestDecodeOutputNames(t *testing.T) {
	outputs := []tensor.Spec{{Name: "a", DType: tensor.Bool}, {Name: "b", DType: tensor.Bool}, {Name: "c", DType: tensor.Bool}}
	m := newModel(&modeltest.Session{Out: outputs})
	for _, c := range []struct {
		names   []string
		want    []int
		message string
	}{
		{nil, []int{0, 1, 2}, ""},
		{[]string{"c", "a"}, []int{2, 0}, ""},
		{[]string{"c", "d"}, nil, `output_names[1]: the model has no output "d"`},
		{[]string{"", "a", "a"}, nil, `output_names[0]: the model has no output "" (and 1 more)`},
		{[]string{"b", "b"}, nil, `output_names[1]: "b" is there already`},
	} {
		_, wanted, f := model.DecodeTensors(m, nil, c.names)
		if c.message == "" && (f != nil || !slices.Equal(wanted, c.want)) || c.message != "" && (f == nil || f.Message != c.message || f.Reason != fault.OutputUnknown) {
			t.Errorf("%q: got %v, %v", c.names, wanted, f)
		}
	}
}
