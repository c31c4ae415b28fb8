// SPDX-License-Identifier: Apache-2.0

package server

import "time"

// Limits are the limits of requests that may change while the server runs.
type Limits struct {
	MaxBatchRequests int
	MaxRequest       time.Duration // requests without a deadline, or with a later one, get this; 0 is none
	MaxOutputBytes   int64         // of one request's outputs; 0 is MaxMessageBytes
}

// Apply changes the limits for requests that come from now on.
func (s *Server) Apply(limits Limits) { s.limits.Store(&limits) }
