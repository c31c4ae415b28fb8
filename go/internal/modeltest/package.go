// SPDX-License-Identifier: Apache-2.0

package modeltest

import (
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	inferencev1 "github.com/concord-inference/concord/go/gen/inference/v1"
	modelpackagev1 "github.com/concord-inference/concord/go/gen/modelpackage/v1"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
)

//go:embed testdata/*.onnx testdata/*.data
var graphs embed.FS

// Graph is the bytes of a tiny graph; testdata/make.py makes them.
func Graph(t testing.TB, name string) []byte {
	t.Helper()
	data, err := graphs.ReadFile("testdata/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// Library is the path of the ONNX Runtime that tests run: CONCORD_ORT_LIBRARY, else what `make build` put into bin/. Without one the
// test fails: a test that is skipped proves nothing.
func Library(t testing.TB) string {
	t.Helper()
	path := os.Getenv("CONCORD_ORT_LIBRARY")
	if path == "" {
		_, here, _, _ := runtime.Caller(0)
		path = filepath.Join(filepath.Dir(here), "../../../bin/libonnxruntime.so.1.31.1")
	}
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("no ONNX Runtime at %s: run `make build`, or set CONCORD_ORT_LIBRARY to libonnxruntime.so.1.31.1", path)
	}
	return path
}

// Package is a model package to be written, with what a test may want to spoil.
type Package struct {
	Manifest *modelpackagev1.Manifest
	Golden   *modelpackagev1.GoldenSet
	Graph    []byte
	Extra    map[string][]byte // further files, listed
}

// Write writes the package into a directory that it makes; the manifest's files are filled in.
func (p Package) Write(t testing.TB, directory string) {
	t.Helper()
	golden, err := proto.Marshal(p.Golden)
	if err != nil {
		t.Fatal(err)
	}
	files := map[string][]byte{"model.onnx": p.Graph, "golden.binpb": golden}
	for name, data := range p.Extra {
		files[name] = data
	}
	manifest := proto.CloneOf(p.Manifest)
	for name, data := range files {
		sum := sha256.Sum256(data)
		manifest.Files = append(manifest.Files, &modelpackagev1.File{Name: name, Sha256: hex.EncodeToString(sum[:]), SizeBytes: int64(len(data))})
		WriteFile(t, filepath.Join(directory, name), data)
	}
	data, err := protojson.Marshal(manifest)
	if err != nil {
		t.Fatal(err)
	}
	WriteFile(t, filepath.Join(directory, "manifest.json"), data)
}

// WriteFile writes a file and the directories above it.
func WriteFile(t testing.TB, name string, data []byte) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, data, 0o644); err != nil {
		t.Fatal(err)
	}
}

// Float is a float feature value.
func Float(x float32) *inferencev1.FeatureValue {
	return &inferencev1.FeatureValue{Value: &inferencev1.FeatureValue_FloatValue{FloatValue: x}}
}

// Text is a string feature value.
func Text(s string) *inferencev1.FeatureValue {
	return &inferencev1.FeatureValue{Value: &inferencev1.FeatureValue_StringValue{StringValue: s}}
}

// Integer is an integer feature value.
func Integer(n int64) *inferencev1.FeatureValue {
	return &inferencev1.FeatureValue{Value: &inferencev1.FeatureValue_Int64Value{Int64Value: n}}
}

// Tabular is a package of the tabular graph: two numbers and a name go in, with "b" 0.5 by default; the doubled numbers, the name and the
// rounded sum come out.
func Tabular(t testing.TB) Package {
	feature := func(name string, typ inferencev1.FeatureType, input string, column int64) *modelpackagev1.FeatureBinding {
		return &modelpackagev1.FeatureBinding{
			Feature: &inferencev1.Feature{Name: name, Type: typ, Required: true}, Input: input, Column: column,
		}
	}
	prediction := func(name string, index int64) *modelpackagev1.PredictionBinding {
		return &modelpackagev1.PredictionBinding{Prediction: &inferencev1.Prediction{Name: name}, Output: "doubled", Index: index}
	}
	b := feature("b", inferencev1.FeatureType_FEATURE_TYPE_FLOAT, "numbers", 1)
	b.Feature.Required, b.Feature.DefaultValue = false, Float(0.5)
	return Package{
		Graph: Graph(t, "tabular.onnx"),
		Manifest: &modelpackagev1.Manifest{
			Kind:        inferencev1.ModelKind_MODEL_KIND_TABULAR,
			Description: "doubles two numbers",
			Features: []*modelpackagev1.FeatureBinding{
				feature("a", inferencev1.FeatureType_FEATURE_TYPE_FLOAT, "numbers", 0), b,
				feature("name", inferencev1.FeatureType_FEATURE_TYPE_STRING, "name", 0),
			},
			Predictions: []*modelpackagev1.PredictionBinding{prediction("twice a", 0), prediction("twice b", 1)},
			Outputs: []*modelpackagev1.OutputBinding{
				{Output: &inferencev1.Output{Name: "name", Type: inferencev1.FeatureType_FEATURE_TYPE_STRING}, OnnxOutput: "same"},
				{Output: &inferencev1.Output{Name: "sum", Type: inferencev1.FeatureType_FEATURE_TYPE_INT64}, OnnxOutput: "rounded"},
			},
			Batching: &modelpackagev1.Batching{Batchable: true},
			Parity:   &inferencev1.ParityRecord{Rows: 1, AbsoluteLimit: 1e-5, RelativeLimit: 1e-6, BatchedEqualsSingle: true},
		},
		Golden: &modelpackagev1.GoldenSet{
			AbsoluteTolerance: 1e-5, RelativeTolerance: 1e-6,
			Cases: []*modelpackagev1.GoldenCase{{
				Request: &modelpackagev1.GoldenCase_Features{Features: &inferencev1.PredictRequest{
					Features: map[string]*inferencev1.FeatureValue{"a": Float(1), "b": Float(2), "name": Text("x")},
				}},
				Answer: &modelpackagev1.GoldenCase_Predictions{Predictions: &inferencev1.PredictResponse{
					Predictions: map[string]float32{"twice a": 2, "twice b": 4},
					Outputs:     map[string]*inferencev1.FeatureValue{"name": Text("x"), "sum": Integer(3)},
				}},
			}},
		},
	}
}

// Lookup is a package of the lookup graph: "index" 0, 1 or 2 gives "number" 10, 20 or 30, any other fails.
func Lookup(t testing.TB) Package {
	return Package{
		Graph: Graph(t, "lookup.onnx"),
		Manifest: &modelpackagev1.Manifest{
			Kind: inferencev1.ModelKind_MODEL_KIND_TABULAR,
			Features: []*modelpackagev1.FeatureBinding{{
				Feature: &inferencev1.Feature{Name: "index", Type: inferencev1.FeatureType_FEATURE_TYPE_INT64, Required: true}, Input: "index",
			}},
			Predictions: []*modelpackagev1.PredictionBinding{{Prediction: &inferencev1.Prediction{Name: "number"}, Output: "number"}},
			Batching:    &modelpackagev1.Batching{Batchable: true, MaxBatchRows: 8},
		},
		Golden: &modelpackagev1.GoldenSet{Cases: []*modelpackagev1.GoldenCase{{
			Request: &modelpackagev1.GoldenCase_Features{Features: &inferencev1.PredictRequest{
				Features: map[string]*inferencev1.FeatureValue{"index": Integer(1)},
			}},
			Answer: &modelpackagev1.GoldenCase_Predictions{Predictions: &inferencev1.PredictResponse{
				Predictions: map[string]float32{"number": 20},
			}},
		}}},
	}
}
