// SPDX-License-Identifier: Apache-2.0

package generate

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	inferencev1 "github.com/concord-inference/concord/go/gen/inference/v1"
	"github.com/concord-inference/concord/go/internal/fault"
)

// vocabulary of the fakes: each byte below 128 is a token, and the last one ends a text.
const (
	vocabulary = 128
	end        = vocabulary - 1
)

// bytesTokenizer has a token for each byte; a template of its own; no tokens for NUL.
type bytesTokenizer struct {
	mu      sync.Mutex
	streams int // open
}

func (t *bytesTokenizer) Template(messages string) (string, error) {
	if strings.Contains(messages, "refused") {
		return "", errors.New("the template says no")
	}
	return "<" + messages + ">", nil
}

func (t *bytesTokenizer) Encode(text string) ([]int32, error) {
	if strings.ContainsRune(text, 0) {
		return nil, errors.New("a NUL character has no tokens")
	}
	tokens := make([]int32, len(text))
	for i := range tokens {
		tokens[i] = int32(text[i]) % end
	}
	return tokens, nil
}

func (t *bytesTokenizer) Stream() (TextStream, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.streams++
	return &bytesStream{t}, nil
}

func (t *bytesTokenizer) Close() {}

type bytesStream struct{ tokenizer *bytesTokenizer }

func (s *bytesStream) Add(token int32) (string, error) { return textOf(token), nil }

func (s *bytesStream) Close() {
	s.tokenizer.mu.Lock()
	defer s.tokenizer.mu.Unlock()
	s.tokenizer.streams--
}

// textOf is printable and plain.
func textOf(token int32) string { return string(rune('a' + token%26)) }

// fakeDecoder keeps what each slot was given, and its logits depend on all of it. It holds its caller to the contract.
type fakeDecoder struct {
	t     *testing.T
	gate  chan struct{} // nil: runs do not wait; else each takes one
	began chan struct{} // holds one where a run has begun, where gate is set
	fail  func(rows []Row) error
	look  func() // at the begin of each run; nil: nobody looks

	mu     sync.Mutex
	caches [][]int32
	most   int
	runs   int // that have ended
	sizes  []int
	busy   bool
}

func newFake(t *testing.T, slots, context int) *fakeDecoder {
	return &fakeDecoder{t: t, caches: make([][]int32, slots), most: context}
}

func (d *fakeDecoder) gated() *fakeDecoder {
	d.gate, d.began = make(chan struct{}), make(chan struct{}, 1)
	return d
}

func (d *fakeDecoder) Slots() int         { return len(d.caches) }
func (d *fakeDecoder) Context() int       { return d.most }
func (d *fakeDecoder) Vocabulary() int    { return vocabulary }
func (d *fakeDecoder) CacheBytes() int64  { return int64(len(d.caches) * d.most * 4) }
func (d *fakeDecoder) EndTokens() []int32 { return []int32{end} }
func (d *fakeDecoder) Close()             { d.alone()() }

// alone fails where two use the decoder at once.
func (d *fakeDecoder) alone() func() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.busy {
		d.t.Error("the decoder is used twice at once")
	}
	d.busy = true
	return func() {
		d.mu.Lock()
		d.busy = false
		d.mu.Unlock()
	}
}

func (d *fakeDecoder) Run(ctx context.Context, rows []Row) ([][]float32, error) {
	defer d.alone()()
	if d.look != nil {
		d.look()
	}
	if d.gate != nil {
		select {
		case d.began <- struct{}{}:
		default:
		}
		select {
		case <-d.gate:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	if d.fail != nil {
		if err := d.fail(rows); err != nil {
			return nil, err
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.runs++
	d.sizes = append(d.sizes, len(rows))
	logits := make([][]float32, len(rows))
	for i, row := range rows {
		cache := d.caches[row.Slot]
		if row.Position > len(cache) || row.Position+len(row.Tokens) > d.most || len(row.Tokens) == 0 || len(rows) > 1 && len(row.Tokens) != 1 ||
			i > 0 && row.Slot <= rows[i-1].Slot {
			d.t.Errorf("row %+v after %d tokens, of %d", row, len(cache), len(rows))
		}
		d.caches[row.Slot] = append(cache[:row.Position:row.Position], row.Tokens...)
		logits[i] = logitsOf(d.caches[row.Slot])
	}
	return logits, nil
}

func (d *fakeDecoder) Move(from, to, tokens int) {
	defer d.alone()()
	d.mu.Lock()
	defer d.mu.Unlock()
	if tokens > len(d.caches[from]) {
		d.t.Errorf("%d tokens moved of %d", tokens, len(d.caches[from]))
	}
	d.caches[to] = append([]int32(nil), d.caches[from][:tokens]...)
	d.caches[from] = nil
}

func (d *fakeDecoder) runsEnded() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.runs
}

// logitsOf are made of all tokens so far.
func logitsOf(tokens []int32) []float32 {
	hash := uint32(2166136261)
	for _, token := range tokens {
		hash = (hash ^ uint32(token)) * 16777619
	}
	logits := make([]float32, vocabulary)
	for i := range logits {
		logits[i] = float32((hash>>7+uint32(i)*2654435761)%1009) / 100
	}
	return logits
}

// greedy is what a prompt gets alone: at most n tokens.
func greedy(prompt string, n int) (ids []int32, reason inferencev1.FinishReason) {
	tokens, _ := (&bytesTokenizer{}).Encode(prompt)
	for len(ids) < n {
		best := int32(0)
		logits := logitsOf(tokens)
		for i := range logits {
			if logits[i] > logits[best] {
				best = int32(i)
			}
		}
		if best == end {
			return ids, inferencev1.FinishReason_FINISH_REASON_STOP
		}
		ids = append(ids, best)
		tokens = append(tokens, best)
	}
	return ids, inferencev1.FinishReason_FINISH_REASON_LENGTH
}

// start makes an engine of a fake; it ends with the test, and then nothing of it is left.
func start(t *testing.T, d *fakeDecoder, change func(*Options)) *Engine {
	t.Helper()
	tokenizer := &bytesTokenizer{}
	options := Options{
		ModelID: "chat", Version: "1", Tokenizer: tokenizer, Decoder: d, Chunk: 16, MaxWaiting: 1024,
		Fault: func(err error) *fault.Fault { return fault.New(fault.ModelExecutionFailed, "%v", err) },
	}
	if change != nil {
		change(&options)
	}
	e := New(options)
	t.Cleanup(func() {
		e.Close()
		tokenizer.mu.Lock()
		defer tokenizer.mu.Unlock()
		if tokenizer.streams != 0 {
			t.Errorf("%d streams of text are open", tokenizer.streams)
		}
	})
	return e
}

// ask asks for the greedy text of a raw prompt.
func ask(prompt string, tokens int) Request {
	return Request{
		Features: map[string]*inferencev1.FeatureValue{
			"prompt": {Value: &inferencev1.FeatureValue_StringValue{StringValue: prompt}},
			"raw":    {Value: &inferencev1.FeatureValue_BoolValue{BoolValue: true}},
		},
		Config:  &inferencev1.InferenceConfig{MaxTokens: int32(tokens)},
		Arrived: time.Now(),
	}
}

// eventually polls a condition, for a time that is never short.
func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !condition(); time.Sleep(50 * time.Microsecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: not within 30 s", what)
		}
	}
}

// check holds what a generation gave against what its prompt gets alone.
func check(prompt string, tokens int, got []Token, ending *Ending) error {
	want, reason := greedy(prompt, tokens)
	if ending.Err != nil || ending.Reason != reason || len(got) != len(want) || ending.Tokens != len(want) || ending.PromptTokens != len(prompt) {
		return fmt.Errorf("%q: got %d tokens and %+v (%v), want %d and %v", prompt, len(got), ending, ending.Err, len(want), reason)
	}
	for i := range want {
		if got[i].ID != want[i] || got[i].Text != textOf(want[i]) {
			return fmt.Errorf("%q: token %d: got %+v, want %d", prompt, i, got[i], want[i])
		}
	}
	return nil
}

// freeSlots is how many slots are free.
func (e *Engine) freeSlots() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	n := 0
	for _, a := range e.slots {
		if a == nil {
			n++
		}
	}
	return n
}
