// SPDX-License-Identifier: Apache-2.0

package admission

import (
	"encoding/binary"
	"fmt"
	"maps"

	"github.com/concord-inference/concord/go/gen/onnx"
	"github.com/concord-inference/concord/go/internal/fault"
)

// value is what is known of a name in a graph without running it.
type value struct {
	elemType int32
	// safe says that it is a constant by which any integer of its type can be divided: it holds neither 0 nor -1.
	safe bool
}

// divisions refuses integer Div and Mod by anything but a safe constant. Types are followed through the graph; where a type
// cannot be known it is taken for an integer.
func (c *checker) divisions(m *onnx.ModelProto) error {
	scope := map[string]value{}
	_, err := c.followGraph(m.GetGraph(), scope, nil)
	return err
}

// followGraph adds the values of g to scope and returns those of its outputs. inputs, where given, are those of a body's inputs.
func (c *checker) followGraph(g *onnx.GraphProto, scope map[string]value, inputs []value) ([]value, error) {
	for _, v := range g.GetValueInfo() {
		scope[v.GetName()] = value{elemType: v.GetType().GetTensorType().GetElemType()}
	}
	for _, t := range g.GetInitializer() {
		scope[t.GetName()] = value{t.GetDataType(), safeDivisor(t)}
	}
	for i, v := range g.GetInput() {
		// An initializer of the same name is a default that a caller may override, so it is no constant.
		known := value{elemType: v.GetType().GetTensorType().GetElemType()}
		if known.elemType == unknown && i < len(inputs) {
			known.elemType = inputs[i].elemType
		}
		scope[v.GetName()] = known
	}
	if err := c.followNodes(g.GetNode(), scope); err != nil {
		return nil, err
	}
	outputs := make([]value, len(g.GetOutput()))
	for i, v := range g.GetOutput() {
		outputs[i] = scope[v.GetName()]
		if outputs[i].elemType == unknown {
			outputs[i].elemType = v.GetType().GetTensorType().GetElemType()
		}
	}
	return outputs, nil
}

func (c *checker) followNodes(nodes []*onnx.NodeProto, scope map[string]value) error {
	for _, n := range nodes {
		inputs := make([]value, len(n.GetInput()))
		for i, name := range n.GetInput() {
			inputs[i] = scope[name]
		}
		domain := canonicalDomain(n.GetDomain())
		f := c.functions[functionKey(n.GetDomain(), n.GetOpType(), n.GetOverload())]
		if f == nil && domain == "" && (n.GetOpType() == "Div" || n.GetOpType() == "Mod") {
			if err := checkDivision(n, inputs); err != nil {
				return err
			}
		}
		outputs, err := c.followNode(n, f, inputs, scope)
		if err != nil {
			return err
		}
		for i, name := range n.GetOutput() {
			if name == "" {
				continue
			}
			known := value{}
			if i < len(outputs) {
				known = outputs[i]
			}
			if known.elemType == unknown {
				known.elemType = scope[name].elemType
			}
			scope[name] = known
		}
	}
	return nil
}

func checkDivision(n *onnx.NodeProto, inputs []value) error {
	elemType := unknown
	for _, in := range inputs {
		if in.elemType != unknown {
			elemType = in.elemType
		}
	}
	if floatTypes[elemType] || len(inputs) == 2 && inputs[1].safe {
		return nil
	}
	return fmt.Errorf("model.onnx: integer %s (node %s) by a divisor that an input can make 0 or -1 is refused: it can stop the "+
		"process; allow_integer_division admits it", n.GetOpType(), fault.Quote(n.GetName()))
}

// followNode gives the values of a node's outputs.
func (c *checker) followNode(n *onnx.NodeProto, f *onnx.FunctionProto, inputs []value, scope map[string]value) ([]value, error) {
	if f != nil {
		inner := map[string]value{}
		for i, name := range f.GetInput() {
			if i < len(inputs) {
				inner[name] = inputs[i]
			}
		}
		if err := c.followNodes(f.GetNode(), inner); err != nil {
			return nil, err
		}
		outputs := make([]value, len(f.GetOutput()))
		for i, name := range f.GetOutput() {
			outputs[i] = inner[name]
		}
		return outputs, nil
	}
	var bodies [][]value
	for _, a := range n.GetAttribute() {
		for _, g := range subgraphs(a) {
			var bound []value
			switch n.GetOpType() {
			case "Loop":
				bound = append([]value{{elemType: int64T}, {elemType: boolT}}, inputs[min(2, len(inputs)):]...)
			case "Scan":
				bound = inputs
			}
			outputs, err := c.followGraph(g, maps.Clone(scope), bound)
			if err != nil {
				return nil, err
			}
			bodies = append(bodies, outputs)
		}
	}
	first := value{}
	if len(inputs) > 0 {
		first.elemType = inputs[0].elemType
	}
	switch op := n.GetOpType(); {
	case op == "Constant":
		return []value{{constantType(n), safeConstant(n)}}, nil
	case op == "ConstantOfShape":
		for _, a := range n.GetAttribute() {
			if a.GetName() == "value" {
				return []value{{elemType: a.GetT().GetDataType()}}, nil
			}
		}
		return []value{{elemType: float}}, nil
	case op == "Loop" && len(bodies) == 1:
		return bodies[0][min(1, len(bodies[0])):], nil
	case (op == "If" || op == "Scan") && len(bodies) > 0:
		return bodies[0], nil
	case op == "Identity" || op == "Unsqueeze" || op == "Squeeze" || op == "Reshape" || op == "Flatten":
		if len(inputs) > 0 {
			return []value{inputs[0]}, nil
		}
		return nil, nil
	default:
		outputs := make([]value, len(n.GetOutput()))
		for i := range outputs {
			outputs[i].elemType = outputType(n, i, inputs)
		}
		if op == "Cast" && len(inputs) > 0 && inputs[0].safe && len(outputs) > 0 && outputs[0].elemType == int64T &&
			!floatTypes[inputs[0].elemType] {
			outputs[0].safe = true
		}
		return outputs, nil
	}
}

// outputType is the element type of output i of a node without subgraphs, or unknown.
func outputType(n *onnx.NodeProto, i int, inputs []value) int32 {
	op := n.GetOpType()
	at := func(set map[string]bool) bool { return set[op] || set[fmt.Sprintf("%s.%d", op, i)] }
	switch {
	case at(givesUnknown):
		return unknown
	case at(givesInt64):
		return int64T
	case at(givesBool):
		return boolT
	case at(givesInt32):
		return int32T
	case at(givesFloat):
		return float
	case at(givesUint8):
		return uint8T
	}
	if name, ok := typeAttribute[op]; ok {
		for _, a := range n.GetAttribute() {
			if a.GetName() == name {
				return int32(a.GetI())
			}
		}
		if t, ok := absentType[op]; ok {
			return t
		}
	}
	from := givesInput[op]
	if from < len(inputs) {
		return inputs[from].elemType
	}
	if op == "QuantizeLinear" {
		return uint8T
	}
	return unknown
}

func safeConstant(n *onnx.NodeProto) bool {
	for _, a := range n.GetAttribute() {
		switch a.GetName() {
		case "value":
			return safeDivisor(a.GetT())
		case "value_int":
			return a.GetI() != 0 && a.GetI() != -1
		case "value_ints":
			for _, v := range a.GetInts() {
				if v == 0 || v == -1 {
					return false
				}
			}
			return len(a.GetInts()) > 0
		}
	}
	return false
}

// safeDivisor says whether an integer tensor holds neither 0 nor -1. Data outside the model is not looked at and so not safe.
func safeDivisor(t *onnx.TensorProto) bool {
	if t.GetDataLocation() == onnx.TensorProto_EXTERNAL {
		return false
	}
	width := map[onnx.TensorProto_DataType]int{
		onnx.TensorProto_INT8: 1, onnx.TensorProto_UINT8: 1, onnx.TensorProto_INT16: 2, onnx.TensorProto_UINT16: 2,
		onnx.TensorProto_INT32: 4, onnx.TensorProto_UINT32: 4, onnx.TensorProto_INT64: 8, onnx.TensorProto_UINT64: 8,
	}[onnx.TensorProto_DataType(t.GetDataType())]
	if width == 0 {
		return false
	}
	count := 0
	if raw := t.GetRawData(); len(raw) > 0 {
		for ; len(raw) >= width; raw = raw[width:] {
			var eight [8]byte
			copy(eight[:], raw[:width])
			bits := binary.LittleEndian.Uint64(eight[:])
			// All ones is -1 of a signed type; refusing the largest unsigned value too costs nobody anything.
			if bits == 0 || bits == ^uint64(0)>>(64-8*width) {
				return false
			}
			count++
		}
		return count > 0
	}
	for _, v := range t.GetInt32Data() {
		if v == 0 || v == -1 {
			return false
		}
		count++
	}
	for _, v := range t.GetInt64Data() {
		if v == 0 || v == -1 {
			return false
		}
		count++
	}
	for _, v := range t.GetUint64Data() {
		if v == 0 {
			return false
		}
		count++
	}
	return count > 0
}
