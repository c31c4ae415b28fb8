// SPDX-License-Identifier: Apache-2.0

package modeltest

import (
	"context"
	"errors"
	"strings"
	"sync"

	inferencev1 "github.com/concord-inference/concord/go/gen/inference/v1"
	modelpackagev1 "github.com/concord-inference/concord/go/gen/modelpackage/v1"
	"github.com/concord-inference/concord/go/internal/generate"
)

// alphabetEnd is the token that ends the alphabet's texts; the others are bytes.
const alphabetEnd = 256

// Alphabet is a text generator that goes on with the alphabet: "w" gives "xyz", then it ends. Any other last character gives "a" first. Its template is the
// contents of the messages; it refuses the content "refused". Fields may be set before it is used.
type Alphabet struct {
	SlotCount int // 0 is 2
	Length    int // of the context; 0 is 64
	Fail      func(row generate.Row) error

	mu     sync.Mutex
	gate   chan struct{}
	wraps  bool
	opened int
	closed int
}

// Open is a generate.Open; the package's bytes do not matter.
func (a *Alphabet) Open(_ generate.Package, sizes generate.Sizes) (generate.Tokenizer, generate.Decoder, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.opened++
	slots := a.SlotCount
	if slots == 0 {
		slots = 2
	}
	if sizes.Slots > 0 {
		slots = sizes.Slots
	}
	d := &alphabetDecoder{alphabet: a, caches: make([][]int32, slots)}
	return alphabetTokenizer{}, d, nil
}

// Endless lets "a" follow "z" from now on: no text ends by itself.
func (a *Alphabet) Endless() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.wraps = true
}

// SetGate lets each run that begins from now on take one from the gate first; nil lets them run. It gives the gate before.
func (a *Alphabet) SetGate(gate chan struct{}) (before chan struct{}) {
	a.mu.Lock()
	defer a.mu.Unlock()
	before, a.gate = a.gate, gate
	return before
}

// Counts are the decoders that were opened, and those of them that were closed.
func (a *Alphabet) Counts() (opened, closed int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.opened, a.closed
}

type alphabetTokenizer struct{}

func (alphabetTokenizer) Template(messages string) (string, error) {
	if strings.Contains(messages, "refused") {
		return "", errors.New("the template refuses this")
	}
	// The last content of a list of objects: its last quoted text.
	parts := strings.Split(messages, `"`)
	if len(parts) < 2 {
		return "", nil
	}
	return parts[len(parts)-2], nil
}

func (alphabetTokenizer) Encode(text string) ([]int32, error) {
	tokens := make([]int32, len(text))
	for i := range tokens {
		tokens[i] = int32(text[i])
	}
	return tokens, nil
}

func (alphabetTokenizer) Stream() (generate.TextStream, error) { return alphabetText{}, nil }
func (alphabetTokenizer) Close()                               {}

type alphabetText struct{}

func (alphabetText) Add(token int32) (string, error) { return string(rune(token)), nil }
func (alphabetText) Close()                          {}

type alphabetDecoder struct {
	alphabet *Alphabet
	caches   [][]int32
}

func (d *alphabetDecoder) Slots() int { return len(d.caches) }
func (d *alphabetDecoder) Context() int {
	if d.alphabet.Length > 0 {
		return d.alphabet.Length
	}
	return 64
}
func (d *alphabetDecoder) Vocabulary() int    { return alphabetEnd + 1 }
func (d *alphabetDecoder) CacheBytes() int64  { return int64(len(d.caches) * d.Context() * 8) }
func (d *alphabetDecoder) EndTokens() []int32 { return []int32{alphabetEnd} }

func (d *alphabetDecoder) Run(ctx context.Context, rows []generate.Row) ([][]float32, error) {
	d.alphabet.mu.Lock()
	gate, wraps := d.alphabet.gate, d.alphabet.wraps
	d.alphabet.mu.Unlock()
	if gate != nil {
		select {
		case <-gate:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	logits := make([][]float32, len(rows))
	for i, row := range rows {
		if d.alphabet.Fail != nil {
			if err := d.alphabet.Fail(row); err != nil {
				return nil, err
			}
		}
		d.caches[row.Slot] = append(d.caches[row.Slot][:row.Position:row.Position], row.Tokens...)
		logits[i] = make([]float32, alphabetEnd+1)
		next := int32('a')
		switch last := row.Tokens[len(row.Tokens)-1]; {
		case last == 'z' && !wraps:
			next = alphabetEnd
		case last >= 'a' && last < 'z':
			next = last + 1
		}
		logits[i][next] = 1
	}
	return logits, nil
}

func (d *alphabetDecoder) Move(from, to, tokens int) {
	d.caches[to], d.caches[from] = d.caches[from][:tokens], nil
}

func (d *alphabetDecoder) Close() {
	d.alphabet.mu.Lock()
	defer d.alphabet.mu.Unlock()
	d.alphabet.closed++
}

// TextGenerator is a package of kind generator, whose golden answer is an Alphabet's.
func TextGenerator() Package {
	return Package{
		Graph: []byte("a decoder"),
		Extra: map[string][]byte{"genai_config.json": []byte("{}"), "tokenizer.json": []byte("{}"), "model.onnx.data": []byte("weights")},
		Manifest: &modelpackagev1.Manifest{
			Kind: inferencev1.ModelKind_MODEL_KIND_GENERATOR, Description: "goes on with the alphabet",
		},
		Golden: &modelpackagev1.GoldenSet{Cases: []*modelpackagev1.GoldenCase{{
			Request: &modelpackagev1.GoldenCase_Features{Features: &inferencev1.PredictRequest{
				Features: map[string]*inferencev1.FeatureValue{"prompt": Text("w"), "raw": Bool(true)},
				Config:   &inferencev1.InferenceConfig{MaxTokens: 9},
			}},
			Answer: &modelpackagev1.GoldenCase_Predictions{Predictions: &inferencev1.PredictResponse{
				Outputs: map[string]*inferencev1.FeatureValue{
					"text":      Text("xyz"),
					"token_ids": {Value: &inferencev1.FeatureValue_Int64Array{Int64Array: &inferencev1.Int64Array{Values: []int64{'x', 'y', 'z'}}}},
				},
				FinishReason: inferencev1.FinishReason_FINISH_REASON_STOP,
			}},
		}}},
	}
}

// Bool is a truth value.
func Bool(b bool) *inferencev1.FeatureValue {
	return &inferencev1.FeatureValue{Value: &inferencev1.FeatureValue_BoolValue{BoolValue: b}}
}
