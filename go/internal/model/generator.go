// SPDX-License-Identifier: Apache-2.0

package model

import (
	inferencev1 "github.com/concord-inference/concord/go/gen/inference/v1"
	"github.com/concord-inference/concord/go/internal/batch"
	"github.com/concord-inference/concord/go/internal/generate"
)

// defaultWaiting is how many generations wait where nothing says otherwise.
const defaultWaiting = 1024

// NewGenerator makes a model that generates text, and owns tokenizer and decoder. chunk is the most tokens of a prompt in one run.
func NewGenerator(id, version string, tokenizer generate.Tokenizer, decoder generate.Decoder, chunk int) *Model {
	m := &Model{ID: id, Version: version, Kind: inferencev1.ModelKind_MODEL_KIND_GENERATOR, Batchable: true}
	m.NoFeatures = "it generates text" // nothing that becomes tensors
	m.Generator = generate.New(generate.Options{
		ModelID: id, Version: version, Tokenizer: tokenizer, Decoder: decoder, Chunk: chunk, MaxWaiting: defaultWaiting, Fault: m.Failed,
	})
	return m
}

func (m *Model) applyGenerator(settings batch.Settings) {
	waiting := settings.MaxQueueRows
	if waiting == 0 {
		waiting = defaultWaiting
	}
	m.Generator.Apply(waiting)
}

func (m *Model) generatorExecution() *inferencev1.Execution {
	e := m.Generator
	return &inferencev1.Execution{
		Executors: 1, MaxBatchRows: int32(e.Slots()), MaxQueueRows: int32(e.MaxWaiting()), Device: "cpu",
		GenerationSlots: int32(e.Slots()), ContextLength: int32(e.Context()), KvCacheBytes: e.CacheBytes(), PrefillChunkTokens: int32(e.Chunk()),
	}
}
