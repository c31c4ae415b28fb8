// SPDX-License-Identifier: Apache-2.0

package model

import "time"

var started = time.Now()

// wallClock is the time since some moment.
func wallClock() time.Duration { return time.Since(started) }
