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

// readGraph holds a graph against what its settings say, and runs it once.
func readGraph(s *session, settings *generate.Settings) (graphShape, error) {
	g := graphShape{}
	seen := map[string]bool{}
	find := func(what, name string, specs []tensor.Spec, ios *C.concord_io, types []tensor.DType, shape ...int64) (tensor.DType, *C.char, error) {
		index := slices.IndexFunc(specs, func(spec tensor.Spec) bool { return spec.Name == name })
		if index < 0 {
			return 0, nil, fmt.Errorf("expected an %s %s, got none", what, fault.Quote(name))
		}
		seen[name] = true
		spec := specs[index]
		if !slices.Contains(types, spec.DType) || !spec.Unranked && !fits(spec.Shape, shape) {
			return 0, nil, fmt.Errorf("%s %s: expected %s %s, got %s %s", what, fault.Quote(name), either(types), lengths(shape), spec.DType, lengths(spec.Shape))
		}
		return spec.DType, unsafe.Slice(ios, len(specs))[index].name, nil
	}
	input := func(name string, types []tensor.DType, shape ...int64) (tensor.DType, *C.char, error) {
		return find("input", name, s.inputs, s.c.inputs, types, shape...)
	}
	output := func(name string, types []tensor.DType, shape ...int64) (tensor.DType, *C.char, error) {
		return find("output", name, s.outputs, s.c.outputs, types, shape...)
	}
	integers, floats := []tensor.DType{tensor.Int64}, []tensor.DType{tensor.Float32, tensor.Float16}
	var err error
	if _, g.inputIDs, err = input(settings.InputIDs, integers, -1, -1); err != nil {
		return g, err
	}
	if _, g.attentionMask, err = input(settings.AttentionMask, integers, -1, -1); err != nil {
		return g, err
	}
	if slices.ContainsFunc(s.inputs, func(spec tensor.Spec) bool { return spec.Name == settings.PositionIDs }) {
		if _, g.positionIDs, err = input(settings.PositionIDs, integers, -1, -1); err != nil {
			return g, err
		}
	}
	for layer := range settings.Layers {
		for _, names := range [][2]string{{settings.PastKey, settings.PresentKey}, {settings.PastValue, settings.PresentVal}} {
			pair := cachePair{}
			g.cache, pair.past, err = input(generate.LayerName(names[0], layer), floats, -1, int64(settings.Heads), -1, int64(settings.HeadSize))
			if err != nil {
				return g, err
			}
			floats = []tensor.DType{g.cache} // all are of the first one's type
			if _, pair.present, err = output(generate.LayerName(names[1], layer), floats, -1, int64(settings.Heads), -1, int64(settings.HeadSize)); err != nil {
				return g, err
			}
			g.pairs = append(g.pairs, pair)
		}
	}
	both := []tensor.DType{tensor.Float32, tensor.Float16}
	if g.logits, g.logitsName, err = output(settings.Logits, both, -1, -1, int64(settings.Vocabulary)); err != nil {
		return g, err
	}
	for _, spec := range s.inputs {
		if !seen[spec.Name] {
			return g, fmt.Errorf("input %s is none that text generation gives", fault.Quote(spec.Name))
		}
	}
	return g, g.probe(s, settings)
}

// fits says whether a graph's shape takes what a decoder gives: what it leaves open always does.
func fits(shape, given []int64) bool {
	if len(shape) != len(given) {
		return false
	}
	for axis, length := range shape {
		// The second axis of logits may be 1: then they come for the last token alone.
		logits := len(given) == 3 && axis == 1 && length == 1
		if length != -1 && length != given[axis] && !logits {
			return false
		}
	}
	return true
}

func either(types []tensor.DType) string {
	text := types[0].String()
	for _, t := range types[1:] {
		text += " or " + t.String()
	}
	return text
}

// lengths shows a shape, with a question mark where it is open.
func lengths(shape []int64) string {
	text := "["
	for axis, length := range shape {
		if axis > 0 {
			text += ","
		}
		if length < 0 {
			text += "?"
		} else {
			text += fmt.Sprint(length)
		}
	}
	return text + "]"
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
		expected := []int64{1, tokens, int64(settings.Vocabulary)}
		if spec.Name != settings.Logits {
			if !slices.ContainsFunc(g.pairs, func(p cachePair) bool { return C.GoString(p.present) == spec.Name }) {
				continue
			}
			expected = cache.Shape
		} else if len(got) == 3 && got[1] == 1 {
			g.pruned, expected[1] = true, 1
		}
		if !slices.Equal(got, expected) {
			return fmt.Errorf("output %s: expected %s, got %s", fault.Quote(spec.Name), lengths(expected), lengths(got))
		}
	}
	return nil
}
