// SPDX-License-Identifier: Apache-2.0

// Package admission judges an ONNX graph before this process loads it: by rules - what it may use, how large it may grow, what could bring the
// process down - and by a trial load in a child process, whose verdict is kept. The rules, with their reasons, are in docs/admission.md; the
// Python server follows the same ones and refuses with the same words.
package admission

import (
	"fmt"
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/concord-inference/concord/go/gen/onnx"
	"github.com/concord-inference/concord/go/internal/fault"
)

// rules is the version of the rules below: it goes up whenever one changes, so that kept verdicts of older ones are forgotten.
const rules = 2

// Limits of a graph. What a real model needs lies far below; what stalls or exhausts a loader lies above.
const (
	maxNodes         = 100_000
	maxDepth         = 16
	maxExpandedNodes = 20_000
	maxBlockSize     = 1 << 16
)

// Model is what is judged: a graph and the files that its external data may lie in, as they were read, and the sha256 of each in
// lower-case hexadecimal, the graph's under "model.onnx".
type Model struct {
	Graph []byte
	Files map[string][]byte
	Sums  map[string]string
	// Generator is what makes the model a text generator; nil for other kinds.
	Generator *Generator
}

// Generator is what a text generator has besides its graph.
type Generator struct {
	Files   map[string][]byte // genai_config.json and the tokenizer's, by name; their sha256 are among the model's Sums
	Threads int               // within an operator; 0: as many as there are processors
}

// Options widen what is admitted.
type Options struct {
	// IntegerDivision admits integer Div and Mod whose divisor is not a safe constant. ONNX Runtime traps, and the process
	// dies, when an input makes such a divisor 0, or -1 for the smallest integer.
	IntegerDivision bool
	// Generator says that it is a text generator's graph, whose inputs the server alone makes.
	Generator bool
	// ExternalFiles are the names that external data may refer to.
	ExternalFiles map[string]bool
}

// Check reports why the serialized model must not be loaded, or nil.
func Check(model []byte, options Options) error {
	m := &onnx.ModelProto{}
	if err := (proto.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(model, m); err != nil {
		return fmt.Errorf("model.onnx: expected an ONNX model, got %d bytes that are none", len(model))
	}
	if m.GetGraph() == nil {
		return fmt.Errorf("model.onnx: expected an ONNX model with a graph, got none")
	}
	if len(m.GetTrainingInfo()) > 0 {
		return fmt.Errorf("model.onnx: training information is not served")
	}
	c := &checker{options: options, functions: map[string]*onnx.FunctionProto{}}
	for _, f := range m.GetFunctions() {
		c.functions[functionKey(f.GetDomain(), f.GetName(), f.GetOverload())] = f
	}
	for _, values := range [][]*onnx.ValueInfoProto{m.GetGraph().GetInput(), m.GetGraph().GetOutput()} {
		for _, v := range values {
			if err := checkValueType(v); err != nil {
				return err
			}
		}
	}
	if err := c.graph(m.GetGraph(), 0); err != nil {
		return err
	}
	for _, f := range m.GetFunctions() {
		if err := c.nodes(f.GetNode(), 0); err != nil {
			return err
		}
	}
	if err := c.expansion(m.GetGraph()); err != nil {
		return err
	}
	if options.IntegerDivision {
		return nil
	}
	return c.divisions(m)
}

type checker struct {
	options   Options
	functions map[string]*onnx.FunctionProto
	seen      int
}

func functionKey(domain, name, overload string) string {
	return canonicalDomain(domain) + "::" + name + "::" + overload
}

// canonicalDomain maps the two spellings of the standard domain to one.
func canonicalDomain(domain string) string {
	if domain == "ai.onnx" {
		return ""
	}
	return domain
}

// checkValueType refuses what neither service can carry.
func checkValueType(v *onnx.ValueInfoProto) error {
	switch t := v.GetType().GetValue().(type) {
	case *onnx.TypeProto_TensorType:
		e := t.TensorType.GetElemType()
		if !servedTypes[e] {
			return fmt.Errorf("model.onnx: tensor %s has type %s, which is not served", fault.Quote(v.GetName()), typeName(e))
		}
		return nil
	case *onnx.TypeProto_SequenceType:
		return fmt.Errorf("model.onnx: %s is a sequence, which is not served", fault.Quote(v.GetName()))
	case *onnx.TypeProto_MapType:
		return fmt.Errorf("model.onnx: %s is a map, which is not served", fault.Quote(v.GetName()))
	case *onnx.TypeProto_OptionalType:
		return fmt.Errorf("model.onnx: %s is an optional, which is not served", fault.Quote(v.GetName()))
	case *onnx.TypeProto_SparseTensorType:
		return fmt.Errorf("model.onnx: %s is a sparse tensor, which is not served", fault.Quote(v.GetName()))
	case *onnx.TypeProto_OpaqueType:
		return fmt.Errorf("model.onnx: %s is an opaque value, which is not served", fault.Quote(v.GetName()))
	}
	// An output's type may be left for ONNX Runtime to infer; the session is asked again after loading.
	return nil
}

func typeName(elemType int32) string {
	if name, ok := onnx.TensorProto_DataType_name[elemType]; ok {
		return strings.ToLower(name)
	}
	return fmt.Sprintf("number %d", elemType)
}

func (c *checker) graph(g *onnx.GraphProto, depth int) error {
	if depth > maxDepth {
		return fmt.Errorf("model.onnx: graphs are nested more than %d deep", maxDepth)
	}
	for _, t := range g.GetInitializer() {
		if err := c.tensor(t); err != nil {
			return err
		}
	}
	for _, s := range g.GetSparseInitializer() {
		if err := c.sparse(s); err != nil {
			return err
		}
	}
	return c.nodes(g.GetNode(), depth)
}

func (c *checker) nodes(nodes []*onnx.NodeProto, depth int) error {
	c.seen += len(nodes)
	if c.seen > maxNodes {
		return fmt.Errorf("model.onnx: expected at most %d nodes, got more", maxNodes)
	}
	for _, n := range nodes {
		if err := c.node(n, depth); err != nil {
			return err
		}
	}
	return nil
}

func (c *checker) node(n *onnx.NodeProto, depth int) error {
	if c.functions[functionKey(n.GetDomain(), n.GetOpType(), n.GetOverload())] == nil {
		switch domain := canonicalDomain(n.GetDomain()); {
		case domain == "" || domain == "ai.onnx.ml":
		case domain == "com.microsoft" && generatorOperators[n.GetOpType()] && !c.options.Generator:
			return fmt.Errorf("model.onnx: operator com.microsoft.%s is admitted in text generators alone", n.GetOpType())
		case domain == "com.microsoft" && contribOperators[n.GetOpType()]:
		case domain == "com.microsoft":
			return fmt.Errorf("model.onnx: operator com.microsoft.%s is not on the list of admitted operators", fault.Shown(n.GetOpType()))
		default:
			return fmt.Errorf("model.onnx: operator domain %s is not admitted (operator %s)", fault.Quote(domain), fault.Shown(n.GetOpType()))
		}
	}
	for _, a := range n.GetAttribute() {
		if a.GetName() == "blocksize" && (n.GetOpType() == "DepthToSpace" || n.GetOpType() == "SpaceToDepth") &&
			(a.GetI() < 1 || a.GetI() > maxBlockSize) {
			return fmt.Errorf("model.onnx: %s: expected a blocksize from 1 to %d, got %d", n.GetOpType(), maxBlockSize, a.GetI())
		}
		if err := c.attribute(a, depth); err != nil {
			return err
		}
	}
	return nil
}

func (c *checker) attribute(a *onnx.AttributeProto, depth int) error {
	tensors := a.GetTensors()
	if a.GetT() != nil {
		tensors = append([]*onnx.TensorProto{a.GetT()}, tensors...)
	}
	for _, t := range tensors {
		if err := c.tensor(t); err != nil {
			return err
		}
	}
	sparse := a.GetSparseTensors()
	if a.GetSparseTensor() != nil {
		sparse = append([]*onnx.SparseTensorProto{a.GetSparseTensor()}, sparse...)
	}
	for _, s := range sparse {
		if err := c.sparse(s); err != nil {
			return err
		}
	}
	for _, g := range subgraphs(a) {
		if err := c.graph(g, depth+1); err != nil {
			return err
		}
	}
	return nil
}

func subgraphs(a *onnx.AttributeProto) []*onnx.GraphProto {
	if a.GetG() == nil {
		return a.GetGraphs()
	}
	return append([]*onnx.GraphProto{a.GetG()}, a.GetGraphs()...)
}

func (c *checker) sparse(s *onnx.SparseTensorProto) error {
	for _, t := range []*onnx.TensorProto{s.GetValues(), s.GetIndices()} {
		if err := c.tensor(t); err != nil {
			return err
		}
	}
	return nil
}

// tensor checks where a tensor's bytes come from: from the model itself, or from a file that belongs to the package.
func (c *checker) tensor(t *onnx.TensorProto) error {
	if t.GetDataLocation() != onnx.TensorProto_EXTERNAL && len(t.GetExternalData()) == 0 {
		return nil
	}
	for _, entry := range t.GetExternalData() {
		if entry.GetKey() == "location" && c.options.ExternalFiles[entry.GetValue()] {
			return nil
		}
	}
	return fmt.Errorf("model.onnx: tensor %s has its data in a file that is not part of the package", fault.Quote(t.GetName()))
}

// expansion bounds how many nodes the graph has once its functions are inlined, and refuses recursion.
func (c *checker) expansion(g *onnx.GraphProto) error {
	if len(c.functions) == 0 {
		return nil
	}
	sizes := map[string]int{}
	active := map[string]bool{}
	var count func(nodes []*onnx.NodeProto) (int, error)
	count = func(nodes []*onnx.NodeProto) (int, error) {
		total := 0
		for _, n := range nodes {
			total++
			for _, a := range n.GetAttribute() {
				for _, sub := range subgraphs(a) {
					size, err := count(sub.GetNode())
					if err != nil {
						return 0, err
					}
					total += size
				}
			}
			key := functionKey(n.GetDomain(), n.GetOpType(), n.GetOverload())
			if f := c.functions[key]; f != nil {
				if active[key] {
					return 0, fmt.Errorf("model.onnx: function %s calls itself", fault.Quote(n.GetOpType()))
				}
				size, known := sizes[key]
				if !known {
					active[key] = true
					var err error
					if size, err = count(f.GetNode()); err != nil {
						return 0, err
					}
					active[key] = false
					sizes[key] = size
				}
				total += size
			}
			if total > maxExpandedNodes {
				return 0, fmt.Errorf("model.onnx: expected at most %d nodes after its functions are inlined, got more", maxExpandedNodes)
			}
		}
		return total, nil
	}
	_, err := count(g.GetNode())
	return err
}
