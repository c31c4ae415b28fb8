// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/concord-inference/concord/go/internal/config"
	"github.com/concord-inference/concord/go/internal/generate"
	"github.com/concord-inference/concord/go/internal/ort"
	"github.com/concord-inference/concord/go/internal/repository"
)

// findGenAI is the file of onnxruntime-genai that is configured, or the one beside ONNX Runtime; nothing where there is none.
func findGenAI(settings config.Config, runtime string) (string, error) {
	path := settings.GenAI
	if path == "" {
		path = filepath.Join(filepath.Dir(runtime), ort.GenAILibraryName)
	}
	if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() {
		// A name without a slash would be searched for in the system's directories.
		return filepath.Abs(path)
	}
	if settings.GenAI != "" {
		return "", fmt.Errorf("onnxruntime_genai: expected %s, got %q, which is no file", ort.GenAILibraryName, settings.GenAI)
	}
	return "", nil
}

// openGenerators is how text generators are opened; nil where the library is missing. It is loaded with the first of them: most servers have none.
func openGenerators(library *ort.Runtime, genai string, log *slog.Logger) generate.Open {
	if genai == "" {
		return nil
	}
	return func(p generate.Package, sizes generate.Sizes) (generate.Tokenizer, generate.Decoder, error) {
		opened, err := library.OpenGenAI(genai)
		if err != nil {
			log.Error("onnxruntime-genai cannot be loaded", "cause", err.Error())
			return nil, nil, fmt.Errorf("onnxruntime-genai cannot be loaded: %w", err)
		}
		return library.Generators(opened)(p, sizes)
	}
}

// generatingOf is what a configuration says of a model's text generators.
func generatingOf(c *config.Config, modelID string, open generate.Open) repository.Generate {
	g := c.SettingsOf(modelID).Generation
	return repository.Generate{
		Open: open, Sizes: generate.Sizes{Slots: g.Slots, Bytes: g.CacheBytes, Threads: g.Threads}, Chunk: g.ChunkTokens,
	}
}
