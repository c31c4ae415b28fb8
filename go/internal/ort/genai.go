// SPDX-License-Identifier: Apache-2.0

package ort

/*
#include <stdlib.h>
#include "genai.h"
*/
import "C"

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"unicode/utf8"
	"unsafe"

	"github.com/concord-inference/concord/go/internal/fault"
	"github.com/concord-inference/concord/go/internal/generate"
)

// GenAIVersion is the release of onnxruntime-genai whose tokenizer both servers use, so that their tokens are equal.
const GenAIVersion = "0.18.0"

// GenAILibraryName is the file of that release.
const GenAILibraryName = "libonnxruntime-genai.so"

// GenAI is onnxruntime-genai, loaded. A process loads it once.
type GenAI struct{}

var openedGenAI struct {
	sync.Mutex
	path string
}

// OpenGenAI loads the library. It uses the ONNX Runtime that is open, and sends no telemetry. A process that has opened one library cannot open
// another.
func (r *Runtime) OpenGenAI(library string) (*GenAI, error) {
	openedGenAI.Lock()
	defer openedGenAI.Unlock()
	if openedGenAI.path == "" {
		path := C.CString(library)
		defer C.free(unsafe.Pointer(path))
		if err := failure(C.concord_genai_open(path)); err != nil {
			return nil, err
		}
		openedGenAI.path = library
	}
	if openedGenAI.path != library {
		return nil, fmt.Errorf("this process has loaded another library already")
	}
	return &GenAI{}, nil
}

// Tokenizer makes a tokenizer of a package's files, by name. The library reads them from a directory of its own, which does not outlast the call.
func (g *GenAI) Tokenizer(files map[string][]byte) (generate.Tokenizer, error) {
	directory, err := generate.WriteTokenizer(files)
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(directory)
	return g.TokenizerFrom(directory)
}

// TokenizerFrom makes a tokenizer of what generate.WriteTokenizer wrote.
func (*GenAI) TokenizerFrom(directory string) (generate.Tokenizer, error) {
	path := C.CString(directory)
	defer C.free(unsafe.Pointer(path))
	t := &tokenizer{}
	if err := refusal(C.concord_genai_tokenizer(path, &t.c)); err != nil {
		return nil, errors.New(fault.Scrub(strings.ReplaceAll(err.Error(), directory, "")))
	}
	return t, nil
}

// refusal is the library's own message: its first line, as the others draw where in the template it happened.
func refusal(text *C.char) error {
	err := failure(text)
	if err == nil {
		return nil
	}
	line, _, _ := strings.Cut(err.Error(), "\n")
	return errors.New(strings.TrimSpace(strings.ToValidUTF8(line, "?")))
}

// tokenizer needs no lock: the library changes nothing of it in any of the calls below.
type tokenizer struct{ c unsafe.Pointer }

func (t *tokenizer) Close() {
	if t.c != nil {
		C.concord_genai_tokenizer_free(t.c)
		t.c = nil
	}
}

// errNUL says what a C string cannot hold.
var errNUL = errors.New("a NUL character has no tokens")

func (t *tokenizer) Template(messages string) (string, error) {
	// Behind an escape of JSON, a NUL would cut the prompt that the template makes.
	var list []map[string]string
	if err := json.Unmarshal([]byte(messages), &list); err != nil {
		return "", errors.New("expected a list of messages")
	}
	for _, message := range list {
		for _, text := range message {
			if strings.ContainsRune(text, 0) {
				return "", errNUL
			}
		}
	}
	in := C.CString(messages)
	defer C.free(unsafe.Pointer(in))
	var out *C.char
	if err := refusal(C.concord_genai_template(t.c, in, &out)); err != nil {
		return "", err
	}
	defer C.concord_genai_text_free(out)
	return valid(C.GoString(out)), nil
}

func (t *tokenizer) Encode(text string) ([]int32, error) {
	if strings.ContainsRune(text, 0) {
		return nil, errNUL
	}
	in := C.CString(text)
	defer C.free(unsafe.Pointer(in))
	var sequences unsafe.Pointer
	var data *C.int32_t
	var count C.size_t
	err := refusal(C.concord_genai_encode(t.c, in, &sequences, &data, &count))
	if sequences != nil {
		defer C.concord_genai_sequences_free(sequences)
	}
	if err != nil {
		return nil, err
	}
	tokens := make([]int32, count)
	copy(tokens, unsafe.Slice((*int32)(unsafe.Pointer(data)), count))
	// A byte that the vocabulary lacks, as SmolLM2's lacks control characters, has -1 here, and no token in Hugging Face's tokenizers.
	return slices.DeleteFunc(tokens, func(token int32) bool { return token < 0 }), nil
}

func (t *tokenizer) Stream() (generate.TextStream, error) {
	s := &textStream{}
	if err := refusal(C.concord_genai_stream(t.c, &s.c)); err != nil {
		return nil, err
	}
	return s, nil
}

type textStream struct{ c unsafe.Pointer }

func (s *textStream) Add(token int32) (string, error) {
	var out *C.char
	if err := refusal(C.concord_genai_add(s.c, C.int32_t(token), &out)); err != nil {
		return "", err
	}
	return valid(C.GoString(out)), nil
}

func (s *textStream) Close() {
	if s.c != nil {
		C.concord_genai_stream_free(s.c)
		s.c = nil
	}
}

// valid replaces each byte that is no UTF-8: a message could not carry it.
func valid(text string) string {
	if utf8.ValidString(text) {
		return text
	}
	return string([]rune(text))
}
