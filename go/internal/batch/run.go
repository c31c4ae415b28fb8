// SPDX-License-Identifier: Apache-2.0

package batch

import (
	"context"
	"fmt"
	"math"
	"runtime/debug"
	"time"

	"github.com/concord-inference/concord/go/internal/fault"
	"github.com/concord-inference/concord/go/internal/tensor"
)

// run runs the parts of all works in one execution, which ends with ctx, and hands out the results. Where a joint run fails, each part runs alone, so
// that only the bad one fails.
func (q *Queue) run(ctx context.Context, works []*work) {
	delivered := 0
	// A defect must neither leave callers waiting nor end the process.
	defer func() {
		if p := recover(); p != nil {
			f := fault.InternalError(fmt.Errorf("panic: %v\n%s", p, debug.Stack()))
			for _, w := range works[delivered:] {
				q.deliver(w, failed(w.parts, f, 0))
			}
		}
	}()
	if q.together(ctx, works) {
		for _, w := range works {
			delivered++
			q.deliver(w, w.results)
		}
		return
	}
	for _, w := range works {
		for i := range w.parts {
			if f := ended(w); f != nil {
				w.results[i].Err, w.results[i].Rows = f, 1
				continue
			}
			q.alone(ctx, w, i)
		}
		delivered++
		q.deliver(w, w.results)
	}
}

// ended is why nobody wants a work's results any more, or nil.
func ended(w *work) *fault.Fault {
	if w.ctx.Err() != nil {
		return fault.Ended(w.ctx)
	}
	return nil
}

func (q *Queue) deliver(w *work, results []Result) {
	w.results = results
	if w.done != nil {
		close(w.done)
	}
}

// alone runs one part by itself.
func (q *Queue) alone(ctx context.Context, w *work, i int) {
	part, result := &w.parts[i], &w.results[i]
	result.Rows = Rows(part.Inputs)
	begin := time.Now()
	outputs, err := q.options.Run(ctx, part.Inputs, part.Wanted, part.Most)
	result.Elapsed.Began, result.Elapsed.Compute = begin, time.Since(begin)
	q.options.Watcher.Ran(1, result.Rows, result.Elapsed.Compute)
	switch {
	case err == nil:
		result.Outputs = outputs
	case ctx.Err() != nil:
		result.Err = fault.Ended(ctx)
	default:
		result.Err = q.options.Fault(err)
	}
}

// together runs all parts at once; false is that there is one only, or that it failed and that each must run alone.
func (q *Queue) together(ctx context.Context, works []*work) bool {
	var inputs [][]tensor.Tensor
	var rows []int
	total, most := 0, int64(0)
	for _, w := range works {
		for i := range w.parts {
			p := &w.parts[i]
			n := rowsOf(p.Inputs)
			inputs, rows = append(inputs, p.Inputs), append(rows, n)
			total += n
			if most >= 0 && p.Most > 0 && most <= math.MaxInt64-p.Most {
				most += p.Most
			} else {
				most = -1
			}
		}
	}
	if len(inputs) < 2 {
		return false
	}
	begin := time.Now()
	outputs, err := q.options.Run(ctx, tensor.Join(inputs), works[0].parts[0].Wanted, max(most, 0))
	compute := time.Since(begin)
	q.options.Watcher.Ran(len(inputs), total, compute)
	if err != nil {
		return false
	}
	parts, err := split(outputs, rows)
	if err != nil {
		return false
	}
	at := 0
	for _, w := range works {
		for i := range w.parts {
			result := &w.results[i]
			result.Rows, result.Elapsed.Began, result.Elapsed.Compute = total, begin, compute
			if most := w.parts[i].Most; most > 0 && bytesOf(parts[at]) > most {
				result.Err = fault.AnswerTooLarge(bytesOf(parts[at]), most)
			} else {
				result.Outputs = parts[at]
			}
			at++
		}
	}
	return true
}

func bytesOf(outputs []tensor.Tensor) int64 {
	total := int64(0)
	for i := range outputs {
		total += outputs[i].Bytes()
	}
	return total
}
