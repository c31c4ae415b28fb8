// SPDX-License-Identifier: Apache-2.0

package batch

import "time"

// Watcher sees what becomes of a version's rows. Its methods are called from several goroutines and must not block.
type Watcher interface {
	// Queued tells that the rows that wait changed by that many: entered where positive, left where negative.
	Queued(rows int)
	// Began tells that a request begins to run after that wait.
	Began(wait time.Duration)
	// Ran tells that one execution has ended.
	Ran(requests, rows int, compute time.Duration)
}

type nobody struct{}

func (nobody) Queued(int)                    {}
func (nobody) Began(time.Duration)           {}
func (nobody) Ran(_, _ int, _ time.Duration) {}
