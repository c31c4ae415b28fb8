// SPDX-License-Identifier: Apache-2.0

package ort

/*
#include "api.h"
*/
import "C"

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"unsafe"

	"github.com/concord-inference/concord/go/internal/fault"
	"github.com/concord-inference/concord/go/internal/generate"
	"github.com/concord-inference/concord/go/internal/tensor"
)

// graphShape is what a decoder needs to know of its graph. The names are the session's.
type graphShape struct {
	inputIDs, attentionMask, positionIDs, logitsName *C.char // positionIDs is nil where the graph has no such input
	pairs                                            []cachePair
	cache, logits                                    tensor.DType
	pruned                                           bool // logits come for the last token alone
}

// cachePair is one layer's keys or values.
type cachePair struct{ past, present *C.char }

// readGraph holds a graph against what its settings say, and runs it once. Outputs of other names are left alone.
func readGraph(s *session, settings *generate.Settings) (graphShape, error) {
	m := matcher{inputs: names(s.inputs, s.c.inputs), outputs: names(s.outputs, s.c.outputs)}
	integers, floats := []tensor.DType{tensor.Int64}, []tensor.DType{tensor.Float32, tensor.Float16}
	g := graphShape{}
	_, g.inputIDs = m.match("input", settings.InputIDs, integers, -1, -1)
	_, g.attentionMask = m.match("input", settings.AttentionMask, integers, -1, -1)
	if _, ok := m.inputs[settings.PositionIDs]; ok {
		_, g.positionIDs = m.match("input", settings.PositionIDs, integers, -1, -1)
	}
	shape := []int64{-1, int64(settings.Heads), -1, int64(settings.HeadSize)}
	types := floats
	for layer := range settings.Layers {
		for _, pattern := range []string{settings.PastKey, settings.PastValue} {
			dtype, name := m.match("input", generate.LayerName(pattern, layer), types, shape...)
			g.cache, types = dtype, []tensor.DType{dtype} // all are of the first one's type
			g.pairs = append(g.pairs, cachePair{past: name})
		}
	}
	for layer := range settings.Layers {
		for i, pattern := range []string{settings.PresentKey, settings.PresentVal} {
			_, g.pairs[2*layer+i].present = m.match("output", generate.LayerName(pattern, layer), types, shape...)
		}
	}
	for _, spec := range s.inputs {
		if !m.seenInputs[spec.Name] && m.err == nil {
			m.err = fmt.Errorf("input %s: expected none of this name", fault.Quote(spec.Name))
		}
	}
	g.logits, g.logitsName = m.match("output", settings.Logits, floats, -1, -1, int64(settings.Vocabulary))
	if m.err != nil {
		return g, m.err
	}
	if m.twice {
		return g, errors.New("expected an input and an output for each name, got names that are equal")
	}
	return g, g.probe(s, settings)
}

// matcher finds inputs and outputs by name, and keeps the first thing that is wrong.
type matcher struct {
	inputs, outputs         map[string]named
	seenInputs, seenOutputs map[string]bool
	twice                   bool
	err                     error
}

type named struct {
	*tensor.Spec
	c *C.char
}

func names(specs []tensor.Spec, ios *C.concord_io) map[string]named {
	all := make(map[string]named, len(specs))
	for i, io := range unsafe.Slice(ios, len(specs)) {
		all[specs[i].Name] = named{&specs[i], io.name}
	}
	return all
}

// match is the tensor of a name. Its open lengths must be open, but for the second of the logits, which is 1 where they come for the last
// token alone; the others may be.
func (m *matcher) match(what, name string, types []tensor.DType, shape ...int64) (tensor.DType, *C.char) {
	all, seen := m.inputs, &m.seenInputs
	if what == "output" {
		all, seen = m.outputs, &m.seenOutputs
	}
	if *seen == nil {
		*seen = map[string]bool{}
	}
	m.twice = m.twice || (*seen)[name]
	(*seen)[name] = true
	found, ok := all[name]
	if ok && slices.Contains(types, found.DType) && !found.Unranked && fits(found.Shape, shape) {
		return found.DType, found.c
	}
	if m.err == nil {
		got := "nothing"
		if ok {
			got = found.Describe()
		}
		either := types[0].String()
		for _, t := range types[1:] {
			either += " or " + t.String()
		}
		m.err = fmt.Errorf("%s %s: expected %s %s, got %s", what, fault.Quote(name), either, tensor.ShapeText(shape), got)
	}
	return types[0], nil
}

func fits(shape, wanted []int64) bool {
	if len(shape) != len(wanted) {
		return false
	}
	for axis, length := range shape {
		lastOnly := len(wanted) == 3 && axis == 1 && length == 1
		if length != -1 && length != wanted[axis] && !lastOnly {
			return false
		}
	}
	return true
}

// probe runs two tokens in memory of its own: the shapes of what comes out are then known.
func (g *graphShape) probe(s *session, settings *generate.Settings) error {
	tokens := int64(min(2, settings.Context))
	ones := tensor.Make(tensor.Int64, []int64{1, tokens})
	for i := range tokens {
		ones.Data[i*8] = 1
	}
	cache := tensor.Make(g.cache, []int64{1, int64(settings.Heads), tokens, int64(settings.HeadSize)})
	inputs := make([]tensor.Tensor, len(s.inputs))
	for i, spec := range s.inputs {
		switch spec.Name {
		case settings.InputIDs, settings.PositionIDs:
			inputs[i] = tensor.Make(tensor.Int64, ones.Shape)
		case settings.AttentionMask:
			inputs[i] = ones
		default:
			inputs[i] = cache
		}
		if spec.Name == settings.PositionIDs {
			for token := range tokens {
				inputs[i].Data[token*8] = byte(token)
			}
		}
	}
	wanted := make([]int, len(s.outputs))
	for i := range wanted {
		wanted[i] = i
	}
	outputs, err := s.Run(context.Background(), inputs, wanted, 0)
	if err != nil {
		return errors.New(fault.Scrub(err.Error()))
	}
	for i, spec := range s.outputs {
		got := outputs[i].Shape
		switch {
		case spec.Name == settings.Logits:
			expected := []int64{1, tokens, int64(settings.Vocabulary)}
			if g.pruned = len(got) == 3 && got[1] == 1; g.pruned {
				expected[1] = 1
			}
			if !slices.Equal(got, expected) {
				return fmt.Errorf("logits of %d tokens: expected %s, got %s", tokens, tensor.ShapeText(expected), tensor.ShapeText(got))
			}
		case slices.ContainsFunc(g.pairs, func(p cachePair) bool { return C.GoString(p.present) == spec.Name }):
			if !slices.Equal(got, cache.Shape) {
				return fmt.Errorf("output %s: expected %s, got %s", fault.Quote(spec.Name), tensor.ShapeText(cache.Shape), tensor.ShapeText(got))
			}
		}
	}
	return nil
}
