// SPDX-License-Identifier: Apache-2.0

package tensor

import (
	"fmt"
	"math"
	"slices"
)

// Tensor is a dense array of any rank. Rank 0 is one element; an axis of length 0 makes it empty.
type Tensor struct {
	DType   DType
	Shape   []int64
	Data    []byte   // row-major, little-endian, no padding; nil for strings
	Strings []string // row-major, any bytes; nil for other types
}

// Spec is what a graph says of one of its inputs or outputs.
type Spec struct {
	Name     string
	DType    DType
	Shape    []int64 // -1 where the graph leaves a length open
	Unranked bool    // not even the rank is known; Shape is empty
	Max      []int64 // greatest length of each axis of an input, 0 where nothing says; nil where nothing is said of any
}

// Elements is the product of a shape's lengths: 1 for rank 0. It is false where a length is negative or the product does not
// fit.
func Elements(shape []int64) (int64, bool) {
	n := int64(1)
	empty := false
	for _, length := range shape {
		if length < 0 {
			return 0, false
		}
		if length == 0 {
			empty = true
			continue
		}
		if n > math.MaxInt64/length {
			return 0, false
		}
		n *= length
	}
	if empty {
		return 0, true
	}
	return n, true
}

// Make is a tensor of zeros (empty strings). The shape must have passed Elements.
func Make(dtype DType, shape []int64) Tensor {
	n, _ := Elements(shape)
	if dtype == String {
		return Tensor{DType: dtype, Shape: shape, Strings: make([]string, n)}
	}
	return Tensor{DType: dtype, Shape: shape, Data: make([]byte, n*int64(dtype.Size()))}
}

// Len is the number of elements.
func (t *Tensor) Len() int {
	if t.DType == String {
		return len(t.Strings)
	}
	if size := t.DType.Size(); size > 0 {
		return len(t.Data) / size
	}
	return 0
}

// Clone is a copy that shares no memory.
func (t *Tensor) Clone() Tensor {
	return Tensor{DType: t.DType, Shape: slices.Clone(t.Shape), Data: slices.Clone(t.Data), Strings: slices.Clone(t.Strings)}
}

// FramedString is the least that frames a string on the wire: its tag and its length.
const FramedString = 2

// Bytes is the least that the elements take on the wire: the data of numbers, the bytes of strings with 2 for each.
func (t *Tensor) Bytes() int64 {
	if t.DType != String {
		return int64(len(t.Data))
	}
	n := int64(len(t.Strings)) * FramedString
	for _, text := range t.Strings {
		n += int64(len(text))
	}
	return n
}

// Join puts tensors of rows one below the other along axis 0, which all have. All parts have the same inputs, types and lengths beyond axis 0.
func Join(parts [][]Tensor) []Tensor {
	joined := make([]Tensor, len(parts[0]))
	for i, head := range parts[0] {
		rows, elements := int64(0), 0
		for _, part := range parts {
			rows += part[i].Shape[0]
			elements += len(part[i].Data) + len(part[i].Strings)
		}
		shape := slices.Clone(head.Shape)
		shape[0] = rows
		t := Tensor{DType: head.DType, Shape: shape}
		if head.DType == String {
			t.Strings = make([]string, 0, elements)
			for _, part := range parts {
				t.Strings = append(t.Strings, part[i].Strings...)
			}
		} else {
			t.Data = make([]byte, 0, elements)
			for _, part := range parts {
				t.Data = append(t.Data, part[i].Data...)
			}
		}
		joined[i] = t
	}
	return joined
}

// Rows are n rows from row i on, of a tensor whose axis 0 is the batch axis, not of length 0. They share memory.
func (t *Tensor) Rows(i, n int) Tensor {
	shape := slices.Clone(t.Shape)
	all := int(shape[0])
	shape[0] = int64(n)
	rows := Tensor{DType: t.DType, Shape: shape}
	if t.DType == String {
		size := len(t.Strings) / all
		rows.Strings = t.Strings[i*size : (i+n)*size : (i+n)*size]
	} else {
		size := len(t.Data) / all
		rows.Data = t.Data[i*size : (i+n)*size : (i+n)*size]
	}
	return rows
}

// Describe is a spec in a message: `float [-1, 30]`.
func (s *Spec) Describe() string {
	if s.Unranked {
		return s.DType.String() + " of unknown rank"
	}
	return s.DType.String() + " " + ShapeText(s.Shape)
}

// ShapeText is a shape in a message: `[2, 3]`.
func ShapeText(shape []int64) string {
	text := []byte{'['}
	for i, length := range shape {
		if i > 0 {
			text = append(text, ", "...)
		}
		text = fmt.Appendf(text, "%d", length)
	}
	return string(append(text, ']'))
}
