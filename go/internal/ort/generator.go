// SPDX-License-Identifier: Apache-2.0

package ort

import "github.com/concord-inference/concord/go/internal/generate"

// Generators opens the packages of text generators: tokenizers with that library, decoders with this runtime.
func (r *Runtime) Generators(g *GenAI) generate.Open {
	return func(p generate.Package, sizes generate.Sizes) (generate.Tokenizer, generate.Decoder, error) {
		settings, err := generate.ParseSettings(p.Files[generate.SettingsName])
		if err != nil {
			return nil, nil, err
		}
		tokenizer, err := g.Tokenizer(p.Files)
		if err != nil {
			return nil, nil, err
		}
		decoder, err := r.OpenDecoder(p.Graph, p.External, settings, sizes)
		if err != nil {
			tokenizer.Close()
			return nil, nil, err
		}
		return tokenizer, decoder, nil
	}
}
