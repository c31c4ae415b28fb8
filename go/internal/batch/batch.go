// SPDX-License-Identifier: Apache-2.0

// Package batch lets the requests of one version run, together where that changes no answer. Plan, a pure function, says which; a Queue is who
// waits for it, and the executions around it. It knows neither models nor telemetry.
package batch

import (
	"encoding/binary"
	"errors"
	"time"

	"github.com/concord-inference/concord/go/internal/fault"
	"github.com/concord-inference/concord/go/internal/tensor"
)

// Part is what gets an answer of its own: a request, or one of a batch.
type Part struct {
	Inputs []tensor.Tensor // one for each input of the graph
	Wanted []int           // indices of the graph's outputs
	Most   int64           // bytes of the outputs; 0 is no limit
}

// Elapsed says where the time of a request went.
type Elapsed struct {
	Queue, Compute time.Duration // Compute is of the whole execution that held the request
	Began          time.Time     // when that execution did; zero where the request never ran
}

// Result is what one part got.
type Result struct {
	Outputs []tensor.Tensor // the part's alone: as many rows as it brought
	Elapsed Elapsed
	Rows    int          // in the execution that held it
	Err     *fault.Fault // nil where it was answered
}

// rowsOf is the length that all inputs have on axis 0, or 0 where there is no such length: such inputs run alone.
func rowsOf(inputs []tensor.Tensor) int {
	if len(inputs) == 0 {
		return 0
	}
	for i := range inputs {
		if shape := inputs[i].Shape; len(shape) == 0 || shape[0] != inputs[0].Shape[0] {
			return 0
		}
	}
	return int(inputs[0].Shape[0])
}

// Rows is how many rows inputs bring to an execution: the length of the first input's axis 0, at least 1.
func Rows(inputs []tensor.Tensor) int {
	if len(inputs) == 0 || len(inputs[0].Shape) == 0 {
		return 1
	}
	return int(max(inputs[0].Shape[0], 1))
}

// appendShape appends what parts must agree in to share an execution: the outputs wanted, and of each input the type, the rank and the lengths
// beyond axis 0.
func appendShape(key []byte, p *Part) []byte {
	key = binary.AppendUvarint(key, uint64(len(p.Wanted)))
	for _, index := range p.Wanted {
		key = binary.AppendUvarint(key, uint64(index))
	}
	for i := range p.Inputs {
		t := &p.Inputs[i]
		key = binary.AppendUvarint(key, uint64(t.DType))
		key = binary.AppendUvarint(key, uint64(len(t.Shape)))
		for _, length := range t.Shape[min(1, len(t.Shape)):] {
			key = binary.AppendVarint(key, length)
		}
	}
	return key
}

var errRows = errors.New("an output does not have a row for each row given")

// split cuts the outputs of a joint run into those of its parts, whose rows are given.
func split(outputs []tensor.Tensor, rows []int) ([][]tensor.Tensor, error) {
	total := 0
	for _, n := range rows {
		total += n
	}
	for i := range outputs {
		if shape := outputs[i].Shape; len(shape) == 0 || shape[0] != int64(total) {
			return nil, errRows
		}
	}
	parts := make([][]tensor.Tensor, len(rows))
	from := 0
	for at, n := range rows {
		parts[at] = make([]tensor.Tensor, len(outputs))
		for o := range outputs {
			parts[at][o] = outputs[o].Rows(from, n)
		}
		from += n
	}
	return parts, nil
}

// RowCount is how many rows the part can be cut into: 0 where it can share no execution.
func (p *Part) RowCount() int { return max(rowsOf(p.Inputs), 0) }

// Fits tells whether two parts can share an execution.
func (p *Part) Fits(other *Part) bool {
	return p.RowCount() > 0 && other.RowCount() > 0 && string(appendShape(nil, p)) == string(appendShape(nil, other))
}
