// SPDX-License-Identifier: Apache-2.0

package model

import (
	"time"

	"golang.org/x/sys/unix"
)

// threadClock is the processor's time of the thread that calls it: what a run on it takes, whatever else the machine does. On a busy machine the wall's
// clock would choose policies by what others do.
func threadClock() func() time.Duration {
	return func() time.Duration {
		var t unix.Timespec
		if unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &t) != nil {
			return wallClock()
		}
		return time.Duration(t.Nano())
	}
}
