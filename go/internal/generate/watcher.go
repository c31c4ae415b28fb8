// SPDX-License-Identifier: Apache-2.0

package generate

import "time"

// Watcher sees what becomes of a version's generations. Its methods are called from several goroutines and must not block.
type Watcher interface {
	// Waiting tells that the generations that wait for a slot changed by that many.
	Waiting(change int)
	// Running tells that the generations that have a slot changed by that many.
	Running(change int)
	// Began tells that a generation has its slot after that wait.
	Began(wait time.Duration)
	// Ran tells that an execution has ended that so many generations shared.
	Ran(rows int)
	// First tells that a generation has its first token, so long after its request came.
	First(after time.Duration)
	// Token tells that a token was generated.
	Token()
	// Ended tells that a generation which had a slot has ended, and how long the executions took that it had a part in.
	Ended(compute time.Duration)
}

type nobody struct{}

func (nobody) Waiting(int)         {}
func (nobody) Running(int)         {}
func (nobody) Began(time.Duration) {}
func (nobody) Ran(int)             {}
func (nobody) First(time.Duration) {}
func (nobody) Token()              {}
func (nobody) Ended(time.Duration) {}
