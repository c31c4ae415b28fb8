// SPDX-License-Identifier: Apache-2.0

package admission

import "github.com/concord-inference/concord/go/gen/onnx"

const (
	unknown = int32(onnx.TensorProto_UNDEFINED)
	float   = int32(onnx.TensorProto_FLOAT)
	int64T  = int32(onnx.TensorProto_INT64)
	int32T  = int32(onnx.TensorProto_INT32)
	uint8T  = int32(onnx.TensorProto_UINT8)
	boolT   = int32(onnx.TensorProto_BOOL)
	stringT = int32(onnx.TensorProto_STRING)
)

// servedTypes are the element types that the contract's tensors carry.
var servedTypes = set(
	onnx.TensorProto_FLOAT, onnx.TensorProto_UINT8, onnx.TensorProto_INT8, onnx.TensorProto_UINT16, onnx.TensorProto_INT16,
	onnx.TensorProto_INT32, onnx.TensorProto_INT64, onnx.TensorProto_STRING, onnx.TensorProto_BOOL, onnx.TensorProto_FLOAT16,
	onnx.TensorProto_DOUBLE, onnx.TensorProto_UINT32, onnx.TensorProto_UINT64, onnx.TensorProto_BFLOAT16,
)

// floatTypes are the types whose division cannot trap.
var floatTypes = set(onnx.TensorProto_FLOAT, onnx.TensorProto_FLOAT16, onnx.TensorProto_DOUBLE, onnx.TensorProto_BFLOAT16)

func set(types ...onnx.TensorProto_DataType) map[int32]bool {
	m := make(map[int32]bool, len(types))
	for _, t := range types {
		m[int32(t)] = true
	}
	return m
}
