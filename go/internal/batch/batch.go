// SPDX-License-Identifier: Apache-2.0

// Package batch runs rows together where that changes no answer.
package batch

import (
	"context"
	"encoding/binary"
	"errors"

	"github.com/concord-inference/concord/go/internal/fault"
	"github.com/concord-inference/concord/go/internal/model"
	"github.com/concord-inference/concord/go/internal/tensor"
)

// Result is what one row got. Outputs hold the row alone: where they have a batch axis, its length is 1.
type Result struct {
	Outputs []tensor.Tensor
	Elapsed model.Elapsed // of the whole execution that held the row
	Rows    int           // in that execution
	Err     *fault.Fault  // nil where the row was answered
}

// Plan cuts rows into executions. Rows of one execution have equal shapes and are at most maxRows; both rows and executions keep
// their order. Each execution is the indices of its rows.
func Plan(rows [][]tensor.Tensor, maxRows int) [][]int {
	var executions [][]int
	open := map[string]int{} // the execution with room, by the rows' shapes
	var key []byte
	for i, row := range rows {
		key = key[:0]
		for _, t := range row {
			for _, length := range t.Shape {
				key = binary.AppendVarint(key, length)
			}
		}
		at, ok := open[string(key)]
		if !ok || len(executions[at]) == maxRows {
			at = len(executions)
			open[string(key)] = at
			executions = append(executions, nil)
		}
		executions[at] = append(executions[at], i)
	}
	return executions
}

// Run answers rows of one model, each with a result of the same index. Each row holds the model's inputs with length 1 on the batch axis. Rows run
// together only where the model is batchable; where a joint run fails, each of its rows runs alone, so that only the bad one fails.
// When ctx ends, the rows that are left get its fault.
func Run(ctx context.Context, m *model.Model, rows [][]tensor.Tensor, wanted []int) []Result {
	results := make([]Result, len(rows))
	for _, execution := range Plan(rows, m.MaxRows()) {
		if len(execution) > 1 && together(ctx, m, rows, wanted, execution, results) {
			continue
		}
		for _, i := range execution {
			results[i] = One(ctx, m, rows[i], wanted)
		}
	}
	return results
}

// One answers one row.
func One(ctx context.Context, m *model.Model, row []tensor.Tensor, wanted []int) Result {
	outputs, elapsed, err := m.Run(ctx, row, wanted)
	if err != nil {
		return Result{Elapsed: elapsed, Rows: 1, Err: fault.From(err)}
	}
	return Result{Outputs: outputs, Elapsed: elapsed, Rows: 1}
}

var errRows = errors.New("an output does not have a row for each row given")

// together runs one execution of several rows; false is that it failed and that each row must run alone.
func together(ctx context.Context, m *model.Model, rows [][]tensor.Tensor, wanted, execution []int, results []Result) bool {
	joint := make([][]tensor.Tensor, len(execution))
	for at, i := range execution {
		joint[at] = rows[i]
	}
	outputs, elapsed, err := m.Run(ctx, tensor.Join(joint), wanted)
	if err == nil {
		for i := range outputs {
			if shape := outputs[i].Shape; len(shape) == 0 || shape[0] != int64(len(execution)) {
				err = errRows
			}
		}
	}
	if err != nil {
		return false
	}
	for at, i := range execution {
		row := make([]tensor.Tensor, len(outputs))
		for o := range outputs {
			row[o] = outputs[o].Row(at)
		}
		results[i] = Result{Outputs: row, Elapsed: elapsed, Rows: len(execution)}
	}
	return true
}
