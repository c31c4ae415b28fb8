// SPDX-License-Identifier: Apache-2.0

// Package tensor holds tensors in memory: types, shapes, sizes, and the way from and to the wire.
package tensor

import "strconv"

// DType is the type of a tensor's elements; the numbers are those of inference.v1.DataType and of ONNX.
type DType int32

// The types that are served.
const (
	Float32  DType = 1
	Uint8    DType = 2
	Int8     DType = 3
	Uint16   DType = 4
	Int16    DType = 5
	Int32    DType = 6
	Int64    DType = 7
	String   DType = 8
	Bool     DType = 9
	Float16  DType = 10
	Float64  DType = 11
	Uint32   DType = 12
	Uint64   DType = 13
	BFloat16 DType = 16
)

var names = map[DType]string{
	0: "undefined", Float32: "float", Uint8: "uint8", Int8: "int8", Uint16: "uint16", Int16: "int16", Int32: "int32",
	Int64: "int64", String: "string", Bool: "bool", Float16: "float16", Float64: "double", Uint32: "uint32", Uint64: "uint64",
	14: "complex64", 15: "complex128", BFloat16: "bfloat16", 17: "float8e4m3fn", 18: "float8e4m3fnuz", 19: "float8e5m2",
	20: "float8e5m2fnuz", 21: "uint4", 22: "int4", 23: "float4e2m1", 24: "uint2", 25: "int2",
}

// String is ONNX's name of the type.
func (d DType) String() string {
	if name, ok := names[d]; ok {
		return name
	}
	return "type " + strconv.Itoa(int(d))
}

// Size is the bytes of one element; 0 for strings and for types that are not served.
func (d DType) Size() int {
	switch d {
	case Uint8, Int8, Bool:
		return 1
	case Uint16, Int16, Float16, BFloat16:
		return 2
	case Float32, Int32, Uint32:
		return 4
	case Float64, Int64, Uint64:
		return 8
	default:
		return 0
	}
}

// Served tells whether tensors of the type can be sent and received.
func (d DType) Served() bool { return d == String || d.Size() > 0 }

// IsFloat tells whether the type is a floating-point number.
func (d DType) IsFloat() bool {
	return d == Float32 || d == Float64 || d == Float16 || d == BFloat16
}

// IsInteger tells whether the type is an integer, signed or not.
func (d DType) IsInteger() bool {
	switch d {
	case Uint8, Int8, Uint16, Int16, Int32, Int64, Uint32, Uint64:
		return true
	default:
		return false
	}
}
