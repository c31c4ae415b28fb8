// SPDX-License-Identifier: Apache-2.0

package model

import (
	"bytes"
	"context"
	"fmt"
	"runtime"
	"slices"
	"time"

	"github.com/concord-inference/concord/go/internal/batch"
	"github.com/concord-inference/concord/go/internal/fault"
	"github.com/concord-inference/concord/go/internal/tensor"
)

const (
	// proofBudget bounds the measurements and the proof of one version, but for the run that is under way then.
	proofBudget = 250 * time.Millisecond
	// proofPatience is how many times the budget may pass by the clock on the wall where the processor does other work.
	proofPatience = 8
	// proofBytes bounds the inputs of one joint run.
	proofBytes          = 16 << 20
	leastRuns, mostRuns = 3, 15
)

// jointRows are the rows of the joint runs that are measured and compared.
var jointRows = []int{8, 32}

// Prove measures what executions take, and whether rows that run together get the very bytes that they get alone: where they do not, the model is
// batchable no more. The parts are those of golden cases that it has answered. It is called before anybody else has the model. Apply makes use of it.
func (m *Model) Prove(ctx context.Context, parts []batch.Part) {
	// A row that runs for ever ends with the patience, where ONNX Runtime can end it.
	ctx, cancel := context.WithTimeout(ctx, proofPatience*proofBudget)
	defer cancel()
	p := prover{ctx: ctx, model: m, clock: wallClock}
	if m.Device == "" || m.Device == "cpu" {
		// The clock's time is this thread's.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		p.clock = threadClock()
	}
	p.begin = p.clock()
	rows := parts
	if m.Batchable {
		rows = alike(parts)
	}
	if len(rows) == 0 {
		return
	}
	alone, ok := p.median(&rows[0])
	if !ok {
		return
	}
	m.traits.Times = append(m.traits.Times, batch.Time{Rows: batch.Rows(rows[0].Inputs), Took: alone})
	if m.Batchable {
		p.together(rows, alone)
	}
	if m.reason != "" {
		m.Batchable, m.traits.Joins = false, false
	}
}

// prover is one proof under way.
type prover struct {
	ctx   context.Context
	model *Model
	clock func() time.Duration
	begin time.Duration
}

// left is what is left of the budget.
func (p *prover) left() time.Duration { return proofBudget - p.since(p.begin) }

func (p *prover) since(begin time.Duration) time.Duration { return p.clock() - begin }

func (p *prover) run(part *batch.Part) ([]tensor.Tensor, error) {
	return p.model.session.Run(p.ctx, part.Inputs, part.Wanted, 0)
}

// median is what a run takes: of a few runs, within a fifth of the budget. The first may have been made already, and taken a time.
func (p *prover) median(part *batch.Part, took ...time.Duration) (time.Duration, bool) {
	end := p.clock() + proofBudget/5
	for len(took) < mostRuns {
		begin := p.clock()
		if len(took) >= leastRuns && begin > end || len(took) > 0 && p.left() <= 0 {
			break
		}
		if _, err := p.run(part); err != nil {
			return 0, false
		}
		took = append(took, p.since(begin))
	}
	slices.Sort(took)
	return took[len(took)/2], true
}

// together runs golden rows jointly, again and again the same where there are few, and compares each with itself alone.
func (p *prover) together(rows []batch.Part, alone time.Duration) {
	most := jointRows[len(jointRows)-1]
	if limit := p.model.traits.MaxRows; limit > 0 {
		most = min(most, limit)
	}
	most = min(most, max(2, proofBytes/int(max(bytesOf(rows[0].Inputs), 1))))
	if most < 2 {
		return
	}
	// What is slow is compared by fewer rows, at least two; and so few run together where eight alone would take all of the budget.
	distinct := max(2, int(float64(proofBudget)/4/float64(max(alone, 1))))
	rows = rows[:min(len(rows), most, distinct)]
	answers := make([][]tensor.Tensor, len(rows))
	for i := range rows {
		var err error
		if answers[i], err = p.run(&rows[i]); err != nil {
			return // it ran before: its time is up
		}
	}
	sizes := []int{2}
	if time.Duration(jointRows[0])*alone <= proofBudget {
		sizes = jointRows
	}
	if most < sizes[0] {
		sizes = []int{most}
	}
	perRow := time.Duration(0) // as the last joint run says
	for _, n := range sizes {
		if n > most || p.left() < time.Duration(n)*perRow {
			break
		}
		joint := batch.Part{Wanted: rows[0].Wanted}
		inputs := make([][]tensor.Tensor, n)
		for at := range n {
			inputs[at] = rows[at%len(rows)].Inputs
		}
		joint.Inputs = tensor.Join(inputs)
		begin := p.clock()
		why := p.compare(&joint, n, answers)
		took := p.since(begin)
		if p.ctx.Err() != nil {
			return
		}
		if why != "" {
			p.model.reason = fmt.Sprintf("%d rows of the golden cases together: %s", n, why)
			return
		}
		took, ok := p.median(&joint, took)
		if !ok {
			return
		}
		perRow = took / time.Duration(n)
		p.model.traits.Times = append(p.model.traits.Times, batch.Time{Rows: n, Took: took})
	}
}

// compare says what of n rows together differs from the answers that the rows have alone, in turn; nothing where nothing does.
func (p *prover) compare(joint *batch.Part, n int, answers [][]tensor.Tensor) string {
	outputs, err := p.run(joint)
	if err != nil {
		if p.ctx.Err() != nil {
			return ""
		}
		return p.model.FaultOf(err).Message
	}
	for i := range outputs {
		name := fault.Quote(p.model.Outputs()[joint.Wanted[i]].Name)
		if shape := outputs[i].Shape; len(shape) == 0 || shape[0] != int64(n) {
			return fmt.Sprintf("output %s does not have a row for each", name)
		}
		for at := range n {
			row := outputs[i].Rows(at, 1)
			if !p.model.same(&row, &answers[at%len(answers)][i]) {
				return fmt.Sprintf("output %s differs from the row's alone", name)
			}
		}
	}
	return ""
}

// same tells whether a row together is the row alone.
func (m *Model) same(together, alone *tensor.Tensor) bool {
	if m.Near != nil {
		return m.Near(together, alone)
	}
	return together.DType == alone.DType && slices.Equal(together.Shape, alone.Shape) &&
		bytes.Equal(together.Data, alone.Data) && slices.Equal(together.Strings, alone.Strings)
}

// alike are the single rows of the parts that can share an execution with the first of them.
func alike(parts []batch.Part) []batch.Part {
	var rows []batch.Part
	for i := range parts {
		for at := range parts[i].RowCount() {
			row := batch.Part{Wanted: parts[i].Wanted, Inputs: make([]tensor.Tensor, len(parts[i].Inputs))}
			for j := range row.Inputs {
				row.Inputs[j] = parts[i].Inputs[j].Rows(at, 1)
			}
			if len(rows) == 0 || row.Fits(&rows[0]) {
				rows = append(rows, row)
			}
		}
	}
	return rows
}

func bytesOf(tensors []tensor.Tensor) int64 {
	total := int64(0)
	for i := range tensors {
		total += tensors[i].Bytes()
	}
	return total
}
