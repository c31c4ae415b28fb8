// SPDX-License-Identifier: Apache-2.0

package tensor

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	inferencev1 "github.com/concord-inference/concord/go/gen/inference/v1"
	"github.com/concord-inference/concord/go/internal/fault"
)

// maxRank bounds the axes of a tensor that a client sends; no model has more.
const maxRank = 64

// FromWire is the tensor that a message holds for an input of the graph, or the first thing wrong with it: with the tensor by itself
// (dtype, then shape, then data, so that nothing is allocated before the lengths fit), then with the tensor as this input. The violation's field is the part of the
// tensor, and its message does not name the input: the caller puts both before them. The tensor shares the message's memory.
func FromWire(message *inferencev1.Tensor, spec *Spec) (Tensor, *fault.Violation) {
	bad := func(reason fault.Reason, part, format string, args ...any) (Tensor, *fault.Violation) {
		return Tensor{}, &fault.Violation{Reason: reason, Field: part, Message: fmt.Sprintf(format, args...)}
	}
	dtype, shape, size := DType(message.GetDtype()), message.GetShape(), int64(DType(message.GetDtype()).Size())
	if !dtype.Served() {
		got := "no dtype"
		if dtype != 0 {
			got = strconv.Itoa(int(dtype))
		}
		return bad(fault.TensorDTypeMismatch, ".dtype", "expected dtype %s, got %s", spec.DType.upper(), got)
	}
	if len(shape) > maxRank {
		return bad(fault.TensorShapeMismatch, ".shape", "expected at most %d axes, got %d", maxRank, len(shape))
	}
	if slices.ContainsFunc(shape, func(length int64) bool { return length < 0 }) {
		return bad(fault.TensorShapeMismatch, ".shape", "expected lengths of at least 0, got %s", ShapeText(shape))
	}
	if dtype == String {
		size = stringSize
	}
	elements, ok := Elements(shape)
	if !ok || !holdable(shape, size) {
		return bad(fault.TensorShapeMismatch, ".shape", "expected fewer elements, got %s", ShapeText(shape))
	}
	t := Tensor{DType: dtype, Shape: shape}
	data, texts := message.GetData(), message.GetStrings()
	switch {
	case dtype == String && len(data) > 0:
		return bad(fault.TensorDataInvalid, ".data", "expected no data with dtype STRING, got %d bytes", len(data))
	case dtype == String && int64(len(texts)) != elements:
		return bad(fault.TensorDataInvalid, ".strings", "expected %d strings, got %d", elements, len(texts))
	case dtype == String:
		t.Strings = make([]string, elements)
		for i, text := range texts {
			t.Strings[i] = string(text)
		}
	case len(texts) > 0:
		return bad(fault.TensorDataInvalid, ".strings", "expected no strings with dtype %s, got %d", dtype.upper(), len(texts))
	case int64(len(data)) != elements*size:
		return bad(fault.TensorDataInvalid, ".data", "expected %d bytes of data, got %d", elements*size, len(data))
	default:
		t.Data = data
	}
	if dtype == Bool {
		for _, b := range data {
			if b > 1 {
				return bad(fault.TensorDataInvalid, ".data", "expected bools of 0 or 1, got %d", b)
			}
		}
	}
	if dtype != spec.DType {
		return bad(fault.TensorDTypeMismatch, ".dtype", "expected dtype %s, got %s", spec.DType.upper(), dtype.upper())
	}
	if !spec.takes(shape) {
		return bad(fault.TensorShapeMismatch, ".shape", "expected shape %s, got %s", spec.openShape(), ShapeText(shape))
	}
	return t, nil
}

// stringSize is what a string counts in a shape's bytes.
const stringSize = 8

// holdable tells whether an array of the shape, axes of length 0 left out, would have fewer than 2^63 bytes: ONNX Runtime multiplies the lengths
// of an empty tensor, too.
func holdable(shape []int64, size int64) bool {
	for _, length := range shape {
		if length > 0 {
			if size > math.MaxInt64/length {
				return false
			}
			size *= length
		}
	}
	return true
}

// takes tells whether a tensor's shape fits the spec.
func (s *Spec) takes(shape []int64) bool {
	if s.Unranked {
		return true
	}
	for axis, most := range s.Max {
		if most > 0 && axis < len(shape) && shape[axis] > most {
			return false
		}
	}
	return slices.EqualFunc(s.Shape, shape, func(want, got int64) bool { return want == -1 || want == got })
}

// openShape is the spec's shape in a message, with "?" for an open axis and "<=512" for one that is limited.
func (s *Spec) openShape() string {
	lengths := make([]string, len(s.Shape))
	for axis, length := range s.Shape {
		switch {
		case length != -1:
			lengths[axis] = strconv.FormatInt(length, 10)
		case s.Max != nil && s.Max[axis] > 0:
			lengths[axis] = "<=" + strconv.FormatInt(s.Max[axis], 10)
		default:
			lengths[axis] = "?"
		}
	}
	return "[" + strings.Join(lengths, ", ") + "]"
}

// upper is the type's name in inference.v1.DataType.
func (d DType) upper() string { return strings.ToUpper(d.String()) }

// ToWire is the message that holds the tensor. It shares the tensor's memory.
func ToWire(t *Tensor) *inferencev1.Tensor {
	message := &inferencev1.Tensor{Dtype: inferencev1.DataType(t.DType), Shape: t.Shape, Data: t.Data}
	if t.DType == String {
		message.Strings = make([][]byte, len(t.Strings))
		for i, text := range t.Strings {
			message.Strings[i] = []byte(text)
		}
	}
	return message
}
