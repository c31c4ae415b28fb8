// SPDX-License-Identifier: Apache-2.0

package model

import (
	"math"
	"sync/atomic"
)

// holders counts who may run a model besides its owner: 0 until Retire, and one less from then on, so that it is -1 when nobody is left.
type holders struct {
	count atomic.Int64
	freed func() // called once the model is freed
}

// nobody is the count of a model that is freed: far below 0, so that no number of late Holds reaches 0.
const nobody = math.MinInt64 / 2

// Hold keeps the model from being freed until Release. It is false where the model is freed already; then it must not be run.
func (m *Model) Hold() bool {
	if m.holders.count.Add(1) >= 0 {
		return true
	}
	m.holders.count.Add(-1)
	return false
}

// Release ends a Hold.
func (m *Model) Release() {
	// Between the two a Hold may still come in; then its Release is the last.
	if m.holders.count.Add(-1) == -1 && m.holders.count.CompareAndSwap(-1, nobody) {
		// Freeing takes its time; the request that was the last does not wait for it.
		go func() {
			m.Close()
			m.holders.freed()
		}()
	}
}

// Retire frees the model as soon as nobody holds it, and then calls freed. It is called once, and Close never with it.
func (m *Model) Retire(freed func()) {
	m.holders.freed = freed
	m.Release()
}
