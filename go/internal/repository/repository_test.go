// SPDX-License-Identifier: Apache-2.0

package repository

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	inferencev1 "github.com/concord-inference/concord/go/gen/inference/v1"
	modelpackagev1 "github.com/concord-inference/concord/go/gen/modelpackage/v1"
	"github.com/concord-inference/concord/go/internal/admission"
	"github.com/concord-inference/concord/go/internal/fault"
	"github.com/concord-inference/concord/go/internal/model"
	"github.com/concord-inference/concord/go/internal/modeltest"
	"github.com/concord-inference/concord/go/internal/tensor"
	"google.golang.org/protobuf/proto"
)

// fake stands for ONNX Runtime: the tabular graph doubles, every other graph is refused with its own text.
func fake(graph []byte, _ map[string][]byte) (model.Session, error) {
	if !bytes.Equal(graph, []byte("tabular")) {
		return nil, errors.New(string(graph))
	}
	return &modeltest.Session{
		In: []tensor.Spec{{Name: "numbers", DType: tensor.Float32, Shape: []int64{-1, 2}}, {Name: "name", DType: tensor.String, Shape: []int64{-1, 1}}},
		Out: []tensor.Spec{
			{Name: "doubled", DType: tensor.Float32, Shape: []int64{-1, 2}}, {Name: "same", DType: tensor.String, Shape: []int64{-1, 1}},
			{Name: "rounded", DType: tensor.Int64, Shape: []int64{-1}},
		},
		Do: func(_ context.Context, in []tensor.Tensor) ([]tensor.Tensor, error) {
			// 1 and 2 become 2 and 4, by their exponents.
			doubled := tensor.Tensor{DType: tensor.Float32, Shape: in[0].Shape, Data: slices.Clone(in[0].Data)}
			for i := 0; i < len(doubled.Data); i += 4 {
				exponent := uint16(doubled.Data[i+2]) | uint16(doubled.Data[i+3])<<8
				exponent += 0x80
				doubled.Data[i+2], doubled.Data[i+3] = byte(exponent), byte(exponent>>8)
			}
			sum := tensor.Make(tensor.Int64, in[0].Shape[:1])
			for i := 0; i < len(sum.Data); i += 8 {
				sum.Data[i] = 3
			}
			return []tensor.Tensor{doubled, in[1], sum}, nil
		},
	}, nil
}

// tabular is the package of the fake's graph.
func tabular(t testing.TB) modeltest.Package {
	p := modeltest.Tabular(t)
	p.Graph = []byte("tabular")
	return p
}

// load opens, lists and loads a repository.
func load(t *testing.T, directory string, options Options) (*Repository, *bytes.Buffer) {
	t.Helper()
	log := &bytes.Buffer{}
	options.Log = slog.New(slog.NewJSONHandler(log, nil))
	if options.Load == nil {
		options.Load = fake
	}
	r, err := Open(directory, options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	if err := r.List(); err != nil {
		t.Fatal(err)
	}
	r.Load(context.Background())
	return r, log
}

func TestReady(t *testing.T) {
	directory := t.TempDir()
	tabular(t).Write(t, filepath.Join(directory, "m", "1"))
	ready := map[string][]bool{}
	r, log := load(t, directory, Options{Changed: func(id string, is bool) { ready[id] = append(ready[id], is) }})
	m, f := r.Resolve("m", "")
	if f != nil {
		t.Fatal(f)
	}
	if m.ID != "m" || m.Version != "1" || m.Kind != inferencev1.ModelKind_MODEL_KIND_TABULAR || !m.Batchable || m.Features == nil {
		t.Errorf("got %+v", m)
	}
	entry, _ := r.Entry("m")
	about := entry.Versions[0].About
	if !about.Verified || about.Description != "doubles two numbers" || about.Parity.GetRows() != 1 || about.ReadyTime.IsZero() {
		t.Errorf("got %+v", about)
	}
	if !slices.Equal(ready["m"], []bool{false, true}) {
		t.Errorf("changes: %v", ready)
	}
	if !strings.Contains(log.String(), `"msg":"model version ready","model_id":"m","model_version":"1"`) {
		t.Errorf("log: %s", log)
	}
}

// TestRefused spoils a good package in one way each, and wants the reason. The version next to it serves.
func TestRefused(t *testing.T) {
	type spoil struct {
		name    string
		pack    func(*modeltest.Package)
		disk    func(t *testing.T, directory string)
		options Options
		want    string
	}
	manifest := func(change func(*modelpackagev1.Manifest)) func(*modeltest.Package) {
		return func(p *modeltest.Package) { change(p.Manifest) }
	}
	edit := func(from, to string) func(*testing.T, string) {
		return func(t *testing.T, directory string) {
			name := filepath.Join(directory, "manifest.json")
			data, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			var loose map[string]any
			if err := json.Unmarshal(data, &loose); err != nil {
				t.Fatal(err)
			}
			data, _ = json.Marshal(loose) // without the library's random spaces
			if !bytes.Contains(data, []byte(from)) {
				t.Fatalf("%s is not in %s", from, data)
			}
			modeltest.WriteFile(t, name, bytes.Replace(data, []byte(from), []byte(to), 1))
		}
	}
	replace := func(name string, data string) func(*testing.T, string) {
		return func(t *testing.T, directory string) {
			modeltest.WriteFile(t, filepath.Join(directory, name), []byte(data))
		}
	}
	link := func(name string) func(*testing.T, string) {
		return func(t *testing.T, directory string) {
			outside := filepath.Join(t.TempDir(), "outside")
			name := filepath.Join(directory, name)
			if err := errors.Join(os.Rename(name, outside), os.Symlink(outside, name)); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, c := range []spoil{
		{"hash", nil, replace("model.onnx", "Tabular"), Options{}, "sha256 of model.onnx is not the manifest's"},
		{"size", nil, replace("golden.binpb", "x"), Options{}, "size of golden.binpb is not the manifest's"},
		{"missing", nil, func(t *testing.T, d string) {
			if err := os.Remove(filepath.Join(d, "golden.binpb")); err != nil {
				t.Fatal(err)
			}
		}, Options{}, "golden.binpb is missing"},
		{"unlisted", nil, replace("notes.txt", ""), Options{}, "notes.txt is not listed in manifest.json"},
		{"unlisted directory", nil, replace("deep/notes.txt", ""), Options{}, "deep is not listed in manifest.json"},
		{"linked graph", nil, link("model.onnx"), Options{}, "model.onnx is a link"},
		{"linked manifest", nil, link("manifest.json"), Options{}, "manifest.json is a link"},
		{"directory for a file", nil, func(t *testing.T, d string) {
			if err := errors.Join(os.Remove(filepath.Join(d, "model.onnx")), os.Mkdir(filepath.Join(d, "model.onnx"), 0o755)); err != nil {
				t.Fatal(err)
			}
		}, Options{}, "model.onnx is no regular file"},
		{"pipe for a file", nil, func(t *testing.T, d string) {
			name := filepath.Join(d, "model.onnx")
			if err := errors.Join(os.Remove(name), syscall.Mkfifo(name, 0o644)); err != nil {
				t.Fatal(err)
			}
		}, Options{}, "model.onnx is no regular file"},
		{"no manifest", nil, func(t *testing.T, d string) {
			if err := os.Remove(filepath.Join(d, "manifest.json")); err != nil {
				t.Fatal(err)
			}
		}, Options{RequireManifest: true}, "manifest.json is missing, and this server requires it"},
		{"nothing", nil, func(t *testing.T, d string) {
			for _, name := range []string{"manifest.json", "model.onnx", "golden.binpb"} {
				if err := os.Remove(filepath.Join(d, name)); err != nil {
					t.Fatal(err)
				}
			}
		}, Options{}, "expected manifest.json or model.onnx, got neither"},
		{"no JSON", nil, replace("manifest.json", "{"), Options{}, "manifest.json is no manifest: "},
		{"unknown field", nil, edit(`"kind"`, `"surprise":1,"kind"`), Options{}, `unknown field "surprise"`},
		{"no kind", manifest(func(m *modelpackagev1.Manifest) { m.Kind = 0 }), nil, Options{}, "kind: expected a kind, got nothing"},
		{"generator", manifest(func(m *modelpackagev1.Manifest) { m.Kind = 3 }), nil, Options{}, "files: genai_config.json is not listed"},
		{"recommender", manifest(func(m *modelpackagev1.Manifest) { m.Kind = 4 }), nil, Options{}, "kind recommender is not served here"},
		{"path in a name", nil, edit(`"name":"model.onnx"`, `"name":"../model.onnx"`), Options{}, `files: expected a file name without directory and leading dot, got "../model.onnx"`},
		{"hidden file", nil, edit(`"name":"model.onnx"`, `"name":".model.onnx"`), Options{}, `files: expected a file name without directory and leading dot, got ".model.onnx"`},
		{"lists itself", nil, edit(`"name":"model.onnx"`, `"name":"manifest.json"`), Options{}, "files: manifest.json lists itself"},
		{"listed twice", nil, edit(`"name":"model.onnx"`, `"name":"golden.binpb"`), Options{}, `files: "golden.binpb" is listed twice`},
		{"graph not listed", nil, edit(`"name":"model.onnx"`, `"name":"other.onnx"`), Options{}, "files: model.onnx is not listed"},
		{"malformed hash", nil, edit(`"sha256":"`, `"sha256":"X`), Options{}, "expected 64 lower-case hexadecimal digits"},
		{"negative rows", manifest(func(m *modelpackagev1.Manifest) { m.Batching.MaxBatchRows = -1 }), nil, Options{}, "batching: max_batch_rows: expected at least 0, got -1"},
		{"binding", manifest(func(m *modelpackagev1.Manifest) { m.Features[0].Input = "z" }), nil, Options{}, `feature "a": the graph has no input "z"`},
		{"features of a tensor model", manifest(func(m *modelpackagev1.Manifest) { m.Kind = 2 }), nil, Options{}, "kind tensor: expected no features"},
		{"ONNX Runtime", func(p *modeltest.Package) { p.Graph = []byte("no graph at /secret/path") }, nil, Options{}, "failed to load: no graph at <...>"},
		{"admission", nil, nil, Options{Admit: func(context.Context, admission.Model) error { return errors.New("a forbidden operator") }}, "a forbidden operator"},
		{"panic", nil, nil, Options{Admit: func(context.Context, admission.Model) error { panic("secret") }}, "internal error"},
		{"golden prediction", func(p *modeltest.Package) { answers(p).Predictions["twice b"] = 4.5 }, nil, Options{}, `golden case 0: prediction "twice b": expected 4.5, got 4`},
		{"golden prediction unknown", func(p *modeltest.Package) { answers(p).Predictions["q"] = 1 }, nil, Options{}, `golden case 0: prediction "q": expected 1, got nothing`},
		{"golden label", func(p *modeltest.Package) { answers(p).Outputs["name"] = modeltest.Text("y") }, nil, Options{}, `golden case 0: output "name": expected "y", got "x"`},
		{"golden integer", func(p *modeltest.Package) { answers(p).Outputs["sum"] = modeltest.Integer(4) }, nil, Options{}, `golden case 0: output "sum": expected 4, got 3`},
		{"golden kind", func(p *modeltest.Package) { answers(p).Outputs["sum"] = modeltest.Float(3) }, nil, Options{}, `golden case 0: output "sum": expected 3, got 3`},
		{"golden feature", func(p *modeltest.Package) { delete(p.Golden.Cases[0].GetFeatures().Features, "a") }, nil, Options{}, `golden case 0: feature "a": expected a float, got nothing`},
		{"golden empty", func(p *modeltest.Package) { p.Golden.Cases = nil }, nil, Options{}, "golden.binpb: expected at least 1 case, got 0"},
		{"golden tolerance", func(p *modeltest.Package) { p.Golden.AbsoluteTolerance = -1 }, nil, Options{}, "golden.binpb: expected finite tolerances"},
		{"golden of another kind", func(p *modeltest.Package) {
			p.Golden.Cases[0].Request = &modelpackagev1.GoldenCase_Tensors{Tensors: &inferencev1.PredictionRequest{}}
		}, nil, Options{}, "golden case 0: expected features and predictions, as for a model of kind tabular"},
	} {
		t.Run(c.name, func(t *testing.T) {
			directory := t.TempDir()
			tabular(t).Write(t, filepath.Join(directory, "good", "1"))
			p := tabular(t)
			if c.pack != nil {
				c.pack(&p)
			}
			p.Write(t, filepath.Join(directory, "bad", "1"))
			if c.disk != nil {
				c.disk(t, filepath.Join(directory, "bad", "1"))
			}
			r, log := load(t, directory, c.options)
			_, f := r.Resolve("bad", "1")
			if f == nil || f.Reason != fault.ModelFailed || !strings.HasPrefix(f.Message, `model "bad" version 1 failed to load: `) || !strings.Contains(f.Message, c.want) {
				t.Errorf("got %v, want %q", f, c.want)
			}
			if f != nil && (strings.Contains(f.Message, directory) || strings.Contains(f.Message, "secret")) {
				t.Errorf("the message tells too much: %s", f.Message)
			}
			if !strings.Contains(log.String(), `"msg":"model version failed","model_id":"bad"`) {
				t.Errorf("log: %s", log)
			}
			if c.options.Admit == nil {
				if _, f := r.Resolve("good", "1"); f != nil {
					t.Errorf("the good neighbour: %v", f)
				}
			}
		})
	}
}

func answers(p *modeltest.Package) *inferencev1.PredictResponse {
	return p.Golden.Cases[0].GetPredictions()
}

func TestBare(t *testing.T) {
	directory := t.TempDir()
	bare := func(id string) string { return filepath.Join(directory, id, "1", "model.onnx") }
	modeltest.WriteFile(t, bare("plain"), []byte("tabular"))
	modeltest.WriteFile(t, bare("data"), []byte("tabular"))
	modeltest.WriteFile(t, bare("data")+".data", []byte("weights"))
	modeltest.WriteFile(t, bare("hard"), []byte("tabular"))
	if err := os.Link(bare("data")+".data", bare("hard")+".data"); err != nil {
		t.Fatal(err)
	}
	modeltest.WriteFile(t, bare("linked"), []byte("tabular"))
	if err := os.Symlink(bare("plain"), bare("linked")+".data"); err != nil {
		t.Fatal(err)
	}
	var given []string
	r, _ := load(t, directory, Options{Load: func(graph []byte, files map[string][]byte) (model.Session, error) {
		for name, data := range files {
			given = append(given, name+"="+string(data))
		}
		return fake(graph, files)
	}})
	m, f := r.Resolve("plain", "")
	if f != nil || m.Kind != inferencev1.ModelKind_MODEL_KIND_TENSOR || m.Batchable || m.Features == nil {
		t.Errorf("plain: %+v, %v", m, f)
	}
	if entry, _ := r.Entry("plain"); entry.Versions[0].About.Verified {
		t.Error("a bare model is verified")
	}
	for id, want := range map[string]string{"data": "model.onnx.data has several links", "hard": "model.onnx.data has several links", "linked": "model.onnx.data is a link"} {
		if _, f := r.Resolve(id, ""); f == nil || !strings.Contains(f.Message, want) {
			t.Errorf("%s: %v", id, f)
		}
	}
	if err := os.Remove(bare("hard") + ".data"); err != nil {
		t.Fatal(err)
	}
	r, _ = load(t, directory, Options{Load: r.options.Load})
	if _, f := r.Resolve("data", ""); f != nil || !slices.Equal(given, []string{"model.onnx.data=weights"}) {
		t.Errorf("data: %v, files %q", f, given)
	}
}

func TestResolve(t *testing.T) {
	directory := t.TempDir()
	write := func(id, version string, good bool) {
		p := tabular(t)
		if !good {
			p.Graph = []byte("broken")
		}
		p.Write(t, filepath.Join(directory, id, version))
	}
	write("m", "2", true)
	write("m", "10", true)
	write("m", "11", false)
	write("broken", "1", false)
	write("broken", "2", false)
	modeltest.WriteFile(t, filepath.Join(directory, "m", "labels.json"), []byte(`{"stable": "2", "canary": 11, "gone": 5, "Bad": 1, "zero": 0, "list": [1]}`))
	modeltest.WriteFile(t, filepath.Join(directory, "empty", "README.md"), nil)
	modeltest.WriteFile(t, filepath.Join(directory, "README.md"), nil)
	tabular(t).Write(t, filepath.Join(directory, "m", ".3"))
	tabular(t).Write(t, filepath.Join(directory, "m", "v4"))
	tabular(t).Write(t, filepath.Join(directory, "not an id", "1"))
	if err := errors.Join(
		os.Symlink("m", filepath.Join(directory, "link")), os.Symlink("2", filepath.Join(directory, "m", "7")),
		os.Symlink("2", filepath.Join(directory, "m", "latest")),
	); err != nil {
		t.Fatal(err)
	}
	r, log := load(t, directory, Options{})
	for _, c := range []struct {
		id, version, want string // the version that answers, or the message
		reason            fault.Reason
	}{
		{"m", "", "10", ""},
		{"m", "2", "2", ""},
		{"m", "stable", "2", ""},
		{"m", "11", `model "m" version 11 failed to load: broken`, fault.ModelFailed},
		{"m", "canary", `model "m" version 11 failed to load: broken`, fault.ModelFailed},
		{"m", "gone", `model "m" has no version 5`, fault.VersionNotFound},
		{"m", "3", `model "m" has no version 3`, fault.VersionNotFound},
		{"m", "7", `model "m" version 7 failed to load: its directory is a link`, fault.ModelFailed},
		{"m", "zero", `model "m" has no label "zero"`, fault.LabelNotFound},
		{"m", "list", `model "m" has no label "list"`, fault.LabelNotFound},
		{"m", "latest", `model "m" has no label "latest"`, fault.LabelNotFound},
		{"broken", "", `model "broken" version 2 failed to load: broken`, fault.ModelFailed},
		{"empty", "", `model "empty" has no versions`, fault.VersionNotFound},
		{"empty", "1", `model "empty" has no version 1`, fault.VersionNotFound},
		{"link", "", `model "link" not found`, fault.ModelNotFound},
		{"nobody", "", `model "nobody" not found`, fault.ModelNotFound},
	} {
		m, f := r.Resolve(c.id, c.version)
		switch {
		case f == nil && (c.reason != "" || m.Version != c.want):
			t.Errorf("%s %q: got version %s", c.id, c.version, m.Version)
		case f != nil && (f.Reason != c.reason || f.Message != c.want):
			t.Errorf("%s %q: got %s %s", c.id, c.version, f.Reason, f.Message)
		}
	}
	var ids []string
	for _, entry := range r.Entries() {
		ids = append(ids, entry.ID)
	}
	if !slices.Equal(ids, []string{"broken", "empty", "m"}) {
		t.Errorf("models: %v", ids)
	}
	for _, leftOut := range []string{"not an id", "link", "m/v4", "m/latest", "m/labels.json label Bad", "m/labels.json label zero", "m/labels.json label list"} {
		if !strings.Contains(log.String(), fmt.Sprintf(`"name":%q`, leftOut)) {
			t.Errorf("%s is not in the log", leftOut)
		}
	}
	if strings.Contains(log.String(), "m/.3") || strings.Contains(log.String(), "README") {
		t.Errorf("log: %s", log)
	}
}

// TestLoading looks at a repository between List and Load.
func TestLoading(t *testing.T) {
	directory := t.TempDir()
	tabular(t).Write(t, filepath.Join(directory, "m", "1"))
	r, err := Open(directory, Options{Load: fake, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if err := r.List(); err != nil {
		t.Fatal(err)
	}
	for _, version := range []string{"", "1"} {
		if _, f := r.Resolve("m", version); f == nil || f.Reason != fault.ModelLoading || f.Message != `model "m" version 1 is loading` {
			t.Errorf("%q: got %v", version, f)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	r.Load(ctx)
	if _, f := r.Resolve("m", ""); f == nil || f.Reason != fault.ModelLoading {
		t.Errorf("an ended load loaded: %v", f)
	}
	r.Load(context.Background())
	if _, f := r.Resolve("m", ""); f != nil {
		t.Error(f)
	}
}

func TestBatchableClaim(t *testing.T) {
	open, fixed := tensor.Spec{Name: "x", DType: tensor.Float32, Shape: []int64{-1, 2}}, tensor.Spec{Name: "f", DType: tensor.Float32, Shape: []int64{1, 2}}
	if err := checkBatchable([]tensor.Spec{open}, []tensor.Spec{open, {Name: "u", Unranked: true}}); err != nil {
		t.Error(err)
	}
	err := checkBatchable([]tensor.Spec{open, fixed}, []tensor.Spec{open})
	if err == nil || err.Error() != `batching: expected an open axis 0, got input "f", float [1, 2]` {
		t.Errorf("got %v", err)
	}
}

func TestTensorGolden(t *testing.T) {
	session := &modeltest.Session{In: []tensor.Spec{{Name: "x", DType: tensor.Float32, Shape: []int64{-1}}}}
	session.Out = session.In
	m := model.New("m", "1", inferencev1.ModelKind_MODEL_KIND_TENSOR, session, nil, false, 0)
	one := func(bits ...byte) map[string]*inferencev1.Tensor {
		return map[string]*inferencev1.Tensor{"x": {Dtype: 1, Shape: []int64{1}, Data: bits}}
	}
	for name, c := range map[string]struct {
		want map[string]*inferencev1.Tensor
		err  string
	}{
		"equal":       {one(0, 0, 0x80, 0x3f), ""},
		"near":        {one(1, 0, 0x80, 0x3f), ""},
		"far":         {one(0, 0, 0x40, 0x40), `golden case 0: output "x": element 0: expected 3, got 1`},
		"other shape": {map[string]*inferencev1.Tensor{"x": {Dtype: 1, Data: make([]byte, 4)}}, `golden case 0: output "x": expected shape [?], got []`},
		"two":         {map[string]*inferencev1.Tensor{"x": {Dtype: 1, Shape: []int64{2}, Data: make([]byte, 8)}}, `golden case 0: output "x": expected float [2], got float [1]`},
		"no output":   {map[string]*inferencev1.Tensor{"y": {Dtype: 1}}, `golden case 0: output "y": the graph has no such output`},
		"malformed":   {map[string]*inferencev1.Tensor{"x": {}}, `golden case 0: output "x": expected dtype FLOAT, got no dtype`},
	} {
		data, err := proto.Marshal(&modelpackagev1.GoldenSet{AbsoluteTolerance: 1e-6, Cases: []*modelpackagev1.GoldenCase{{
			Request: &modelpackagev1.GoldenCase_Tensors{Tensors: &inferencev1.PredictionRequest{Inputs: one(0, 0, 0x80, 0x3f)}},
			Answer:  &modelpackagev1.GoldenCase_Outputs{Outputs: &inferencev1.PredictionResponse{Outputs: c.want}},
		}}})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := selfTest(context.Background(), m, data, nil); (err == nil) != (c.err == "") || err != nil && err.Error() != c.err {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

func FuzzLabels(f *testing.F) {
	for _, seed := range []string{`{"stable": "1", "canary": 2}`, `{}`, `null`, `[]`, `{"a": 1e0}`, `{"a": {"b": 1}}`, `{"a": "01", "a": 1}`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		labels, _, err := parseLabels(data)
		if err != nil && len(labels) > 0 {
			t.Fatal("labels and an error")
		}
		for label, version := range labels {
			if !model.IsLabel(label) || !model.IsVersion(version) {
				t.Fatalf("%q is %q", label, version)
			}
		}
	})
}

func FuzzManifest(f *testing.F) {
	for _, seed := range []string{
		`{"kind": "MODEL_KIND_TABULAR", "files": [{"name": "model.onnx", "sha256": "` + strings.Repeat("0", 64) + `", "sizeBytes": "1"}, {"name": "golden.binpb", "sha256": "` + strings.Repeat("a", 64) + `"}]}`,
		`{}`, `{"files": [{"name": "../x"}]}`, `{"batching": {"maxBatchRows": -1}}`, `[`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		manifest, err := parseManifest(data)
		if err != nil {
			if strings.ContainsAny(err.Error(), "\n\u00a0") {
				t.Fatalf("%q", err)
			}
			return
		}
		for _, file := range manifest.GetFiles() {
			if filepath.Base(file.GetName()) != file.GetName() || file.GetSizeBytes() < 0 || len(file.GetSha256()) != 64 {
				t.Fatalf("%v", file)
			}
		}
	})
}
