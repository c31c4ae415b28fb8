// SPDX-License-Identifier: Apache-2.0

package batch

import "time"

// Enter begins an execution of one row in the caller's own goroutine, where the queue would run a request that comes now in its handler's. Leave must
// follow. False: the request must come by One. waited is since when the request is known.
func (q *Queue) Enter(waited time.Duration) bool {
	q.mu.Lock()
	usual := q.usual
	q.inside++
	q.usual += (float64(q.inside) - q.usual) * usualWeight
	if !q.runsHere() {
		q.inside--
		q.usual = usual // One counts it
		q.mu.Unlock()
		return false
	}
	q.running++
	q.mu.Unlock()
	q.options.Watcher.Began(waited)
	return true
}

// Leave ends what Enter began; took is the time of the execution.
func (q *Queue) Leave(took time.Duration) {
	q.options.Watcher.Ran(1, 1, took)
	q.mu.Lock()
	defer q.mu.Unlock()
	q.running--
	q.inside--
	q.ran(took, 1)
	q.wake()
}
