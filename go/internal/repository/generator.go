// SPDX-License-Identifier: Apache-2.0

package repository

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	inferencev1 "github.com/concord-inference/concord/go/gen/inference/v1"
	modelpackagev1 "github.com/concord-inference/concord/go/gen/modelpackage/v1"
	"github.com/concord-inference/concord/go/internal/admission"
	"github.com/concord-inference/concord/go/internal/fault"
	"github.com/concord-inference/concord/go/internal/generate"
	"github.com/concord-inference/concord/go/internal/model"
	"google.golang.org/protobuf/proto"
)

// Generate is how text generators are opened.
type Generate struct {
	Open  generate.Open
	Sizes generate.Sizes
	Chunk int // most tokens of a prompt in one run
}

const (
	tokenizerName = "tokenizer.json"
	// maxTextBytes bounds each of the files of a bare text generator but the graph's own.
	maxTextBytes = 64 << 20
)

// isText tells whether a file of a text generator is its settings' or its tokenizer's; the others are the graph's.
func isText(name string) bool {
	return slices.ContainsFunc([]string{".json", ".jinja", ".txt", ".model"}, func(suffix string) bool { return strings.HasSuffix(name, suffix) })
}

// sortGenerator takes the files of a package that are not the graph's out of those that are.
func (c *contents) sortGenerator() error {
	c.files = map[string][]byte{}
	for name, data := range c.external {
		if isText(name) {
			c.files[name] = data
			delete(c.external, name)
		}
	}
	for _, name := range []string{generate.SettingsName, tokenizerName} {
		if c.files[name] == nil {
			return fmt.Errorf("files: %s is not listed", name)
		}
	}
	return nil
}

// readBareGenerator reads what a text generator without a manifest has besides its graph. What else lies there is left out.
func (c *contents) readBareGenerator(root *os.Root, directory string, names []string) error {
	c.files = map[string][]byte{}
	for _, name := range names {
		if !isText(name) || !isFileName(name) {
			continue
		}
		data, err := readUnlisted(root, directory, name, maxTextBytes)
		if err != nil {
			return err
		}
		c.files[name], c.sums[name] = data, sum(data)
	}
	if c.files[tokenizerName] == nil {
		return fmt.Errorf("%s is missing", tokenizerName)
	}
	return nil
}

// loadGenerator makes a model of a text generator's verified bytes and lets it prove itself.
func (r *Repository) loadGenerator(ctx context.Context, id, number string, c *contents) (*model.Model, error) {
	if m := c.manifest; len(m.GetFeatures())+len(m.GetPredictions())+len(m.GetOutputs()) > 0 {
		return nil, errors.New("kind generator: expected no features, predictions and outputs in the manifest")
	}
	var how Generate
	if r.options.Generate != nil {
		how = r.options.Generate(id)
	}
	if how.Open == nil {
		return nil, errors.New("kind generator: this server has no onnxruntime-genai")
	}
	generator := &admission.Generator{Files: c.files, Threads: how.Sizes.Threads}
	if err := r.admit(ctx, admission.Model{Graph: c.graph, Files: c.external, Sums: c.sums, Generator: generator}); err != nil {
		return nil, err
	}
	tokenizer, decoder, err := how.Open(generate.Package{Graph: c.graph, External: c.external, Files: c.files}, how.Sizes)
	if err != nil {
		return nil, errors.New(fault.Scrub(err.Error()))
	}
	// Until a model owns it.
	c.graph, c.external, c.files = nil, nil, nil
	m := model.NewGenerator(id, number, tokenizer, decoder, how.Chunk)
	if c.manifest != nil {
		if err := askGolden(ctx, m, c.golden); err != nil {
			m.Close()
			return nil, err
		}
	}
	if r.options.WatchGenerations != nil {
		m.Generator.Watch(r.options.WatchGenerations(id, number, m.Generator.CacheBytes()))
	}
	m.Apply(r.batching(id))
	return m, nil
}

// askGolden asks a text generator its golden cases. Everything that a case tells must be given exactly.
func askGolden(ctx context.Context, m *model.Model, data []byte) error {
	set := &modelpackagev1.GoldenSet{}
	if err := proto.Unmarshal(data, set); err != nil {
		return fmt.Errorf("%s is no golden set", goldenName)
	}
	if len(set.GetCases()) == 0 {
		return fmt.Errorf("%s: expected at least 1 case, got 0", goldenName)
	}
	for i, c := range set.GetCases() {
		if err := askText(ctx, m, c); err != nil {
			return fmt.Errorf("golden case %d: %w", i, err)
		}
	}
	return nil
}

func askText(ctx context.Context, m *model.Model, c *modelpackagev1.GoldenCase) error {
	request, want := c.GetFeatures(), c.GetPredictions()
	if request == nil || want == nil {
		return errors.New("expected features and predictions, as for a model of kind generator")
	}
	if f := model.CheckConfig(request.GetConfig()); f != nil {
		return f
	}
	generation, f := m.Generator.Generate(ctx, generate.Request{Features: request.GetFeatures(), Config: request.GetConfig(), Arrived: time.Now()})
	if f != nil {
		return f
	}
	tokens, ending := generation.All()
	if ending.Err != nil {
		return ending.Err
	}
	got := generate.Answer(tokens)
	for _, name := range slices.Sorted(maps.Keys(want.GetOutputs())) {
		expected, answer := want.GetOutputs()[name], got[name]
		if answer == nil {
			return fmt.Errorf("output %s: expected %s, got nothing", fault.Quote(name), valueText(expected))
		}
		if !proto.Equal(answer, expected) {
			return fmt.Errorf("output %s: expected %s, got %s", fault.Quote(name), valueText(expected), valueText(answer))
		}
	}
	if reason := want.GetFinishReason(); reason != inferencev1.FinishReason_FINISH_REASON_UNSPECIFIED && reason != ending.Reason {
		return fmt.Errorf("finish_reason: expected %s, got %s", reasonText(reason), reasonText(ending.Reason))
	}
	return nil
}

func reasonText(reason inferencev1.FinishReason) string {
	return strings.TrimPrefix(reason.String(), "FINISH_REASON_")
}
