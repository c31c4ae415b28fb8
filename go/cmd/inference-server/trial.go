// SPDX-License-Identifier: Apache-2.0

package main

import (
	"github.com/concord-inference/concord/go/internal/admission"
	"github.com/concord-inference/concord/go/internal/generate"
	"github.com/concord-inference/concord/go/internal/ort"
)

// trial makes of a model what serve makes of it.
type trial struct {
	library *ort.Runtime
	genai   *ort.GenAI
}

func openTrial(of admission.Libraries) (admission.Maker, error) {
	library, err := ort.Open(of.Runtime, of.Threads)
	if err != nil {
		return nil, err
	}
	t := trial{library: library}
	if of.GenAI != "" {
		if t.genai, err = library.OpenGenAI(of.GenAI); err != nil {
			return nil, err
		}
	}
	return t, nil
}

func (t trial) Session(graph []byte, files map[string][]byte) error {
	_, err := t.library.Load(graph, files)
	return err
}

func (t trial) Tokenizer(directory string) (generate.Tokenizer, error) {
	return t.genai.TokenizerFrom(directory)
}

func (t trial) Decoder(graph []byte, files map[string][]byte, settings *generate.Settings, sizes generate.Sizes) (generate.Decoder, error) {
	return t.library.OpenDecoder(graph, files, settings, sizes)
}
