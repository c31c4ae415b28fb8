// SPDX-License-Identifier: Apache-2.0

package tensor

import (
	"fmt"
	"strconv"

	inferencev1 "github.com/concord-inference/concord/go/gen/inference/v1"
	"github.com/concord-inference/concord/go/internal/fault"
)

// maxRank bounds the axes of a tensor that a client sends; no model has more.
const maxRank = 64

// FromWire is the tensor that a message holds, or what is wrong with it. The field is the message's path in the request, for
// example inputs["x"]. The tensor shares the message's memory.
func FromWire(field string, message *inferencev1.Tensor) (Tensor, *fault.Violation) {
	dtype := DType(message.GetDtype())
	if !dtype.Served() {
		got := "no dtype"
		if dtype != 0 {
			got = dtype.String()
		}
		return Tensor{}, violation(fault.TensorDTypeMismatch, field+".dtype", "expected a dtype that is served, got %s", got)
	}
	shape := message.GetShape()
	if len(shape) > maxRank {
		return Tensor{}, violation(fault.TensorShapeMismatch, field+".shape", "expected at most %d axes, got %d", maxRank, len(shape))
	}
	for _, length := range shape {
		if length < 0 {
			return Tensor{}, violation(fault.TensorShapeMismatch, field+".shape", "expected no negative length, got %s", ShapeText(shape))
		}
	}
	elements, ok := Elements(shape)
	if !ok {
		return Tensor{}, violation(fault.TensorShapeMismatch, field+".shape", "expected less than 2^63 elements, got %s", ShapeText(shape))
	}
	if dtype == String {
		if len(message.GetData()) > 0 {
			return Tensor{}, violation(fault.TensorDataInvalid, field+".data", "expected nothing for string, got %d bytes", len(message.GetData()))
		}
		if int64(len(message.GetStrings())) != elements {
			return Tensor{}, violation(fault.TensorDataInvalid, field+".strings", "expected %s, got %d", count(elements, "string"), len(message.GetStrings()))
		}
		texts := make([]string, elements)
		for i, text := range message.GetStrings() {
			texts[i] = string(text)
		}
		return Tensor{DType: dtype, Shape: shape, Strings: texts}, nil
	}
	if len(message.GetStrings()) > 0 {
		return Tensor{}, violation(fault.TensorDataInvalid, field+".strings", "expected nothing for %s, got %d", dtype, len(message.GetStrings()))
	}
	size := int64(dtype.Size())
	// Divided, not multiplied, so that no shape overflows.
	if got := int64(len(message.GetData())); got%size != 0 || got/size != elements {
		return Tensor{}, violation(fault.TensorDataInvalid, field+".data", "expected %s of %d bytes each, got %d bytes", count(elements, "element"), size, got)
	}
	if dtype == Bool {
		for _, b := range message.GetData() {
			if b > 1 {
				return Tensor{}, violation(fault.TensorDataInvalid, field+".data", "expected bytes 0 and 1, got %d", b)
			}
		}
	}
	return Tensor{DType: dtype, Shape: shape, Data: message.GetData()}, nil
}

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

func violation(reason fault.Reason, field, format string, args ...any) *fault.Violation {
	return &fault.Violation{Reason: reason, Field: field, Message: field + ": " + fmt.Sprintf(format, args...)}
}

func count(n int64, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return strconv.FormatInt(n, 10) + " " + noun + "s"
}
