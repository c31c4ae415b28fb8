// SPDX-License-Identifier: Apache-2.0

// Package generate makes text: what a request asks for becomes a prompt, the prompt tokens, and tokens further tokens, several generations side by
// side. Sampling, stop texts and the plan of a round are pure; the Engine is the loop around them. It knows neither ONNX Runtime nor gRPC.
package generate

import "context"

// Tokenizer turns text into tokens and back. It is safe for several goroutines at once.
type Tokenizer interface {
	// Template is the model's chat template applied to messages, a JSON list of {"role","content"}, with what lets the model answer added. An
	// error says that the template refuses them; its text is the template's or the library's own.
	Template(messages string) (string, error)
	// Encode gives the tokens of a text, none for none. An error says what of the text has no tokens, such as a NUL character.
	Encode(text string) ([]int32, error)
	// Stream begins the text of one generation.
	Stream() (TextStream, error)
	// Close frees the tokenizer. No stream of it may be in use.
	Close()
}

// TextStream is the text of one generation as it grows. One goroutine uses it.
type TextStream interface {
	// Add gives the text that became complete with this token: often "", as a character may take several tokens.
	Add(token int32) (string, error)
	// Close frees the stream.
	Close()
}

// Decoder runs the network over the caches of its slots. One caller at a time.
type Decoder interface {
	// Slots is how many generations it has room for, at least 1.
	Slots() int
	// Context is how many tokens one slot holds, at least 1.
	Context() int
	// Vocabulary is how many logits each token gets.
	Vocabulary() int
	// CacheBytes is the memory of all slots' keys and values.
	CacheBytes() int64
	// EndTokens are those with which the model ends its text.
	EndTokens() []int32
	// Run appends each row's tokens to its slot's cache from Position on, and gives the logits after each row's last token, in the rows' order:
	// valid until the next Run. Either every row has exactly one token, or there is one row with any number. Rows are in the order of their slots.
	// When ctx ends, the run is ended as soon as ONNX Runtime can and the error is ctx's; the slots of its rows are then as before from Position on
	// for all that matters. Every other error is ONNX Runtime's.
	Run(ctx context.Context, rows []Row) ([][]float32, error)
	// Move copies the first tokens of a slot's cache to another slot, so that those in use stay the first ones: a joined run costs as much as the
	// slots up to its last.
	Move(from, to, tokens int)
	// Close frees the decoder. It must not be used afterwards.
	Close()
}

// Row is what one slot's generation brings to a run.
type Row struct {
	Slot     int     // below Slots
	Position int     // how many tokens the slot's cache holds already
	Tokens   []int32 // those that come next, at least one; Position and they together are at most Context
}

// Package is what a version of a generator is made of: verified bytes, by name.
type Package struct {
	Graph    []byte            // model.onnx
	External map[string][]byte // what the graph's external initializers may lie in
	Files    map[string][]byte // genai_config.json, tokenizer.json, tokenizer_config.json, chat_template.jinja and the like
}

// Sizes bound a decoder.
type Sizes struct {
	Slots   int   // at least 1
	Bytes   int64 // most memory of the keys and values of all slots
	Threads int   // within one operator; 0: as many as there are processors
}

// Open makes a package's tokenizer and decoder. The error is for callers: no path is in it.
type Open func(p Package, sizes Sizes) (Tokenizer, Decoder, error)
