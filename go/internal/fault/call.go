// SPDX-License-Identifier: Apache-2.0

package fault

import (
	"context"
	"errors"
	"time"
)

// Ended is the fault of a call whose context has ended: the context's cause where that is a fault.
func Ended(ctx context.Context) *Fault {
	var cause *Fault
	if errors.As(context.Cause(ctx), &cause) {
		return cause
	}
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return Expired()
	}
	return New(Cancelled, "the caller cancelled")
}

// Expired is the fault of a call whose deadline has passed.
func Expired() *Fault { return New(DeadlineExceeded, "the deadline passed") }

// TooLong is the fault of a call that took longer than the server lets any.
func TooLong(most time.Duration) *Fault {
	return New(DeadlineExceeded, "the server's longest time for a request passed: %d ms", most.Milliseconds())
}

// AnswerTooLarge is the fault of an answer that is larger than may be sent, in bytes.
func AnswerTooLarge(size, limit int64) *Fault {
	return New(OutputTooLarge, "the answer of %d bytes is larger than the limit of %d bytes", size, limit)
}
