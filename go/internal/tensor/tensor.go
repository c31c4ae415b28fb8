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

// Join puts rows one below the other along axis 0. All rows have the same inputs, types and shapes, and length 1 on axis 0.
func Join(rows [][]Tensor) []Tensor {
	joined := make([]Tensor, len(rows[0]))
	for i, head := range rows[0] {
		shape := slices.Clone(head.Shape)
		shape[0] = int64(len(rows))
		t := Tensor{DType: head.DType, Shape: shape}
		if head.DType == String {
			t.Strings = make([]string, 0, len(rows)*len(head.Strings))
			for _, row := range rows {
				t.Strings = append(t.Strings, row[i].Strings...)
			}
		} else {
			t.Data = make([]byte, 0, len(rows)*len(head.Data))
			for _, row := range rows {
				t.Data = append(t.Data, row[i].Data...)
			}
		}
		joined[i] = t
	}
	return joined
}

// Row is row i of a tensor whose axis 0 is the batch axis, with length 1 there. It shares memory.
func (t *Tensor) Row(i int) Tensor {
	shape := slices.Clone(t.Shape)
	rows := int(shape[0])
	shape[0] = 1
	row := Tensor{DType: t.DType, Shape: shape}
	if t.DType == String {
		n := len(t.Strings) / rows
		row.Strings = t.Strings[i*n : (i+1)*n]
	} else {
		n := len(t.Data) / rows
		row.Data = t.Data[i*n : (i+1)*n]
	}
	return row
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
