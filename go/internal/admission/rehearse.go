// SPDX-License-Identifier: Apache-2.0

package admission

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/concord-inference/concord/go/internal/fault"
	"github.com/concord-inference/concord/go/internal/generate"
)

const (
	rehearsedMessages = `[{"role":"user","content":"Hello"}]`
	rehearsedText     = "Hello" // without a template
	rehearsedSlots    = 2
	rehearsedTokens   = 64 // in each slot
	float32Bytes      = 4
	// rehearsedTexts is how much of a vocabulary is turned into text: each token has its own way to be wrong.
	rehearsedTexts = 1 << 18
)

// rehearse opens a text generator and lets it say a few tokens: a message through its template, tokenizer and network, and back to text.
func rehearse(told task, graph []byte, files map[string][]byte, maker Maker) error {
	settings, err := generate.ParseSettings(told.Settings)
	if err != nil {
		return err
	}
	tokens, err := rehearseText(maker, told.Tokenizer, settings.Vocabulary)
	if err != nil {
		return err
	}
	sizes := generate.Sizes{Slots: rehearsedSlots, Bytes: rehearsedSlots * rehearsedTokens * settings.CacheBytes(float32Bytes), Threads: told.Threads}
	decoder, err := maker.Decoder(graph, files, settings, sizes)
	if err != nil {
		return err
	}
	tokens = tokens[:min(len(tokens), rehearsedTokens-2, max(1, decoder.Context()-2))]
	n := len(tokens)
	runs := [][]generate.Row{{{Tokens: tokens}}}
	if n+1 < decoder.Context() {
		runs = append(runs, []generate.Row{{Position: n, Tokens: tokens[:1]}}, []generate.Row{{Position: n + 1, Tokens: tokens[:1]}, {Slot: 1, Tokens: tokens[:1]}})
	}
	for _, rows := range runs {
		if _, err := decoder.Run(context.Background(), rows); err != nil {
			return err
		}
	}
	return nil
}

// rehearseText gives the tokens of a message, at least one.
func rehearseText(maker Maker, directory string, vocabulary int) ([]int32, error) {
	wrong := func(what string, err error) error { return fmt.Errorf("%s: %s", what, fault.Scrub(err.Error())) }
	data, err := os.ReadFile(filepath.Join(directory, generate.TokenizerName))
	if err != nil {
		return nil, err
	}
	if err := generate.CheckTokenizer(data); err != nil {
		return nil, err
	}
	tokenizer, err := maker.Tokenizer(directory)
	if err != nil {
		return nil, wrong("tokenizer", err)
	}
	text, err := tokenizer.Template(rehearsedMessages)
	if err != nil {
		// Without a template it takes raw prompts.
		if !strings.HasPrefix(err.Error(), "Empty chat template") {
			return nil, wrong("chat template", err)
		}
		text = rehearsedText
	}
	tokens, err := tokenizer.Encode(text)
	if err != nil {
		return nil, wrong("tokenizer", err)
	}
	stream, err := tokenizer.Stream()
	if err != nil {
		return nil, wrong("tokenizer", err)
	}
	for _, token := range tokens {
		if token < 0 || int(token) >= vocabulary {
			return nil, wrong("tokenizer", fmt.Errorf("expected tokens from 0 to %d, got %d", vocabulary-1, token))
		}
		if _, err := stream.Add(token); err != nil {
			return nil, wrong("tokenizer", err)
		}
	}
	for token := range min(vocabulary, rehearsedTexts) {
		if _, err := stream.Add(int32(token)); err != nil {
			return nil, wrong("tokenizer", err)
		}
	}
	if len(tokens) == 0 {
		tokens = []int32{0}
	}
	return tokens, nil
}
