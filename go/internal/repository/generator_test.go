// SPDX-License-Identifier: Apache-2.0

package repository

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	inferencev1 "github.com/concord-inference/concord/go/gen/inference/v1"
	"github.com/concord-inference/concord/go/internal/admission"
	"github.com/concord-inference/concord/go/internal/batch"
	"github.com/concord-inference/concord/go/internal/fault"
	"github.com/concord-inference/concord/go/internal/generate"
	"github.com/concord-inference/concord/go/internal/modeltest"
)

// generators are options that open an alphabet for every text generator.
func generators(a *modeltest.Alphabet) Options {
	return Options{Generate: func(string) Generate { return Generate{Open: a.Open, Sizes: generate.Sizes{Slots: 3}, Chunk: 16} }}
}

func raw(prompt string) generate.Request {
	return generate.Request{
		Features: map[string]*inferencev1.FeatureValue{"prompt": modeltest.Text(prompt), "raw": modeltest.Bool(true)}, Arrived: time.Now(),
	}
}

func TestGenerator(t *testing.T) {
	directory := t.TempDir()
	modeltest.TextGenerator().Write(t, filepath.Join(directory, "chat", "1"))
	var admitted admission.Model
	options := generators(&modeltest.Alphabet{})
	options.Admit = func(_ context.Context, m admission.Model) error { admitted = m; return nil }
	options.Batching = func(string) batch.Settings { return batch.Settings{MaxQueueRows: 7} }
	r, log := load(t, directory, options)
	m, f := r.Resolve("chat", "")
	if f != nil {
		t.Fatal(f, log)
	}
	defer m.Release()
	if m.Kind != inferencev1.ModelKind_MODEL_KIND_GENERATOR || m.Generator == nil || m.Features != nil || len(m.Inputs())+len(m.Outputs()) != 0 {
		t.Errorf("got %+v", m)
	}
	if admitted.Generator == nil || len(admitted.Generator.Files) != 2 || len(admitted.Graph) == 0 || len(admitted.Files) != 1 || len(admitted.Sums) != 4 {
		t.Errorf("admitted %d files, %d sums", len(admitted.Files), len(admitted.Sums))
	}
	x := m.Execution()
	if x.GetGenerationSlots() != 3 || x.GetContextLength() != 64 || x.GetKvCacheBytes() != 3*64*8 || x.GetPrefillChunkTokens() != 16 || x.GetMaxQueueRows() != 7 {
		t.Errorf("got %v", x)
	}
	g, f := m.Generator.Generate(context.Background(), raw("v"))
	if f != nil {
		t.Fatal(f)
	}
	tokens, ending := g.All()
	if text := generate.Answer(tokens)["text"].GetStringValue(); ending.Err != nil || text != "wxyz" {
		t.Errorf("got %q, %v", text, ending.Err)
	}
}

// TestBareGenerator serves a folder of onnxruntime-genai's model builder, unverified.
func TestBareGenerator(t *testing.T) {
	directory := t.TempDir()
	for _, id := range []string{"bare", "linked", "large", "untokenized"} {
		for name, data := range map[string]string{
			"model.onnx": "a decoder", "model.onnx.data": "weights", "genai_config.json": "{}", "tokenizer.json": "{}", "chat_template.jinja": "x", "README.md": "what it is",
		} {
			modeltest.WriteFile(t, filepath.Join(directory, id, "1", name), []byte(data))
		}
	}
	in := func(id, name string) string { return filepath.Join(directory, id, "1", name) }
	if err := errors.Join(
		os.Link(in("linked", "tokenizer.json"), filepath.Join(directory, "elsewhere")), os.Truncate(in("large", "tokenizer.json"), maxTextBytes+1),
		os.Remove(in("untokenized", "tokenizer.json")),
	); err != nil {
		t.Fatal(err)
	}
	var got generate.Package
	options := generators(&modeltest.Alphabet{})
	open := (&modeltest.Alphabet{}).Open
	options.Generate = func(string) Generate {
		return Generate{Chunk: 8, Open: func(p generate.Package, s generate.Sizes) (generate.Tokenizer, generate.Decoder, error) {
			got = p
			return open(p, s)
		}}
	}
	r, log := load(t, directory, options)
	m, f := r.Resolve("bare", "")
	if f != nil {
		t.Fatal(f, log)
	}
	m.Release()
	entry, _ := r.Entry("bare")
	if entry.Versions[0].About.Verified || len(got.Files) != 3 || len(got.External) != 1 || string(got.Graph) != "a decoder" {
		t.Errorf("got %+v", got)
	}
	for id, want := range map[string]string{
		"linked": "tokenizer.json has several links", "large": "tokenizer.json: expected at most 67108864 bytes, got 67108865", "untokenized": "tokenizer.json is missing",
	} {
		if _, f := r.Resolve(id, ""); f == nil || !strings.HasSuffix(f.Message, want) {
			t.Errorf("%s: got %v, want %s", id, f, want)
		}
	}
	options.RequireManifest = true
	r, _ = load(t, directory, options)
	if _, f := r.Resolve("bare", ""); f == nil || !strings.Contains(f.Message, "manifest.json is missing, and this server requires it") {
		t.Errorf("got %v", f)
	}
}

func TestGeneratorsRefused(t *testing.T) {
	good := generators(&modeltest.Alphabet{})
	for name, c := range map[string]struct {
		spoil   func(*modeltest.Package)
		options Options
		want    string
	}{
		"no library":   {func(*modeltest.Package) {}, Options{}, "kind generator: this server has no onnxruntime-genai"},
		"settings":     {func(p *modeltest.Package) { delete(p.Extra, "genai_config.json") }, good, "files: genai_config.json is not listed"},
		"tokenizer":    {func(p *modeltest.Package) { delete(p.Extra, "tokenizer.json") }, good, "files: tokenizer.json is not listed"},
		"golden text":  {func(p *modeltest.Package) { answers(p).Outputs["text"] = modeltest.Text("xy") }, good, `golden case 0: output "text": expected "xy", got "xyz"`},
		"golden ids":   {func(p *modeltest.Package) { answers(p).Outputs["token_ids"].GetInt64Array().Values[0]++ }, good, `golden case 0: output "token_ids": expected other values (3 integers)`},
		"golden other": {func(p *modeltest.Package) { answers(p).Outputs["mood"] = modeltest.Text("good") }, good, `golden case 0: output "mood": expected "good", got nothing`},
		"golden reason": {func(p *modeltest.Package) { answers(p).FinishReason = inferencev1.FinishReason_FINISH_REASON_LENGTH }, good,
			"golden case 0: finish_reason: expected LENGTH, got STOP"},
		"golden empty": {func(p *modeltest.Package) { p.Golden.Cases = nil }, good, "golden.binpb: expected at least 1 case, got 0"},
		"features": {func(p *modeltest.Package) { p.Manifest.Features = tabular(t).Manifest.Features }, good,
			"kind generator: expected no features, predictions and outputs in the manifest"},
		"opening": {func(*modeltest.Package) {}, Options{Generate: func(string) Generate {
			return Generate{Open: func(generate.Package, generate.Sizes) (generate.Tokenizer, generate.Decoder, error) {
				return nil, nil, errors.New("no tokenizer at /secret/path")
			}}
		}}, "no tokenizer at <...>"},
	} {
		directory := t.TempDir()
		p := modeltest.TextGenerator()
		c.spoil(&p)
		p.Write(t, filepath.Join(directory, "chat", "1"))
		r, _ := load(t, directory, c.options)
		if _, f := r.Resolve("chat", ""); f == nil || f.Reason != fault.ModelFailed || !strings.Contains(f.Message, c.want) {
			t.Errorf("%s: got %v, want %s", name, f, c.want)
		}
	}
}

// TestGeneratorReload lets a text that is under way finish on the version that was replaced, which is freed afterwards and no sooner.
func TestGeneratorReload(t *testing.T) {
	directory := t.TempDir()
	first, second := &modeltest.Alphabet{}, &modeltest.Alphabet{}
	options := generators(first)
	modeltest.TextGenerator().Write(t, filepath.Join(directory, "chat", "1"))
	var alphabet atomic.Pointer[modeltest.Alphabet]
	alphabet.Store(first)
	options.Generate = func(string) Generate { return Generate{Open: alphabet.Load().Open, Chunk: 16} }
	r, log := load(t, directory, options)
	old, f := r.Resolve("chat", "")
	if f != nil {
		t.Fatal(f, log)
	}
	gate := make(chan struct{})
	first.SetGate(gate)
	g, f := old.Generator.Generate(context.Background(), raw("t"))
	if f != nil {
		t.Fatal(f)
	}
	alphabet.Store(second)
	modeltest.TextGenerator().Write(t, filepath.Join(directory, "chat", "2"))
	if err := os.RemoveAll(filepath.Join(directory, "chat", "1")); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(30 * time.Second); ; {
		r.Scan(context.Background())
		fresh, f := r.Resolve("chat", "2")
		if f == nil {
			fresh.Release()
			break
		}
		if time.Now().After(end) {
			t.Fatal(f, log)
		}
	}
	if _, closed := first.Counts(); closed != 0 {
		t.Error("the old version is freed under a text")
	}
	close(gate)
	tokens, ending := g.All()
	if text := generate.Answer(tokens)["text"].GetStringValue(); ending.Err != nil || text != "uvwxyz" {
		t.Errorf("got %q, %v", text, ending.Err)
	}
	old.Release()
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(time.Millisecond) {
		if _, closed := first.Counts(); closed == 1 {
			break
		}
		if time.Now().After(end) {
			t.Fatal("the old version is not freed")
		}
	}
	if opened, closed := second.Counts(); opened != 1 || closed != 0 {
		t.Errorf("%d opened, %d closed", opened, closed)
	}
}
