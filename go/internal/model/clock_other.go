// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package model

import "time"

// threadClock is the wall's clock, where a thread has none of its own.
func threadClock() func() time.Duration { return wallClock }
