// SPDX-License-Identifier: Apache-2.0

package batch

import (
	"context"
	"sync"
	"sync/atomic"
)

// All answers the parts of one call and tells each as it is there, one at a time, in no order. Parts that can share an execution come together to the
// queue, as many as one execution holds of a call; and of those chunks no more at once than can run: the rest of the queue is for others. Once each
// has returned false, no chunk begins any more and nothing more is told.
func (q *Queue) All(ctx context.Context, parts []Part, each func(i int, result *Result) bool) {
	setup := q.Setup()
	q.chunks(ctx, parts, chunksOf(parts, min(setup.CallRows, setup.MaxQueueRows)), setup.Executors, each)
}

// Each is All for parts that are requests of their own, of any number of rows: they come to the queue one by one, as many at once as can run, and never
// so many that one call's own would fill the queue.
func (q *Queue) Each(ctx context.Context, parts []Part, each func(i int, result *Result) bool) {
	setup := q.Setup()
	alone := make([][]int, len(parts))
	largest := 1
	for i := range alone {
		alone[i] = []int{i}
		largest = max(largest, Rows(parts[i].Inputs))
	}
	rows := min(setup.Executors*setup.MaxRows, setup.MaxQueueRows)
	q.chunks(ctx, parts, alone, max(1, min(rows/largest, mostAtOnce)), each)
}

// mostAtOnce is the most requests of one call that are under way.
const mostAtOnce = 256

// chunks answers chunks of parts, as many at once as said.
func (q *Queue) chunks(ctx context.Context, parts []Part, chunks [][]int, atOnce int, each func(i int, result *Result) bool) {
	var next atomic.Int64
	var mu sync.Mutex
	enough := false
	work := func() {
		for {
			at := int(next.Add(1)) - 1
			mu.Lock()
			over := enough || at >= len(chunks)
			mu.Unlock()
			if over {
				return
			}
			chunk := make([]Part, len(chunks[at]))
			for place, i := range chunks[at] {
				chunk[place] = parts[i]
			}
			results := q.do(ctx, chunk)
			func() {
				mu.Lock()
				defer mu.Unlock()
				for place, i := range chunks[at] {
					if enough {
						return
					}
					enough = !each(i, &results[place])
				}
			}()
		}
	}
	// A panic of each is the caller's, whichever goroutine it came in.
	var thrown any
	guarded := func() {
		defer func() {
			if p := recover(); p != nil {
				mu.Lock()
				thrown, enough = p, true
				mu.Unlock()
			}
		}()
		work()
	}
	var workers sync.WaitGroup
	for range min(atOnce, len(chunks)) - 1 {
		workers.Go(guarded)
	}
	guarded()
	workers.Wait()
	if thrown != nil {
		panic(thrown)
	}
}

// chunksOf cuts parts into chunks, each the indices of its parts: of one shape and at most so many rows together. Parts and chunks keep their order.
func chunksOf(parts []Part, rows int) [][]int {
	type open struct{ chunk, rows int }
	var chunks [][]int
	having := map[string]open{} // the chunk with room, by shape
	var key []byte
	for i := range parts {
		n := rowsOf(parts[i].Inputs)
		if n < 1 || n >= rows {
			chunks = append(chunks, []int{i})
			continue
		}
		key = appendShape(key[:0], &parts[i])
		o, ok := having[string(key)]
		if !ok || o.rows+n > rows {
			o = open{chunk: len(chunks)}
			chunks = append(chunks, nil)
		}
		chunks[o.chunk] = append(chunks[o.chunk], i)
		o.rows += n
		having[string(key)] = o
	}
	return chunks
}
