// SPDX-License-Identifier: Apache-2.0

package server

import (
	"math/rand/v2"
	"strconv"
	"time"

	"github.com/concord-inference/concord/go/internal/fault"
	"google.golang.org/grpc/codes"
)

// checkBatch holds a batch's number of requests against the limit.
func (s *Server) checkBatch(requests int) *fault.Fault {
	if requests == 0 {
		return fault.Invalid(fault.BatchEmpty, "requests", "expected at least 1 request, got 0")
	}
	if most := s.options.MaxBatchRequests; requests > most {
		return fault.Invalid(fault.BatchTooLarge, "requests", "expected at most %d requests, got %d", most, requests)
	}
	return nil
}

// failed logs a fault that is not the caller's.
func (s *Server) failed(requestID string, f *fault.Fault) *fault.Fault {
	if codeOf(f) == codes.Internal {
		cause := f.Message
		if f.Cause != nil {
			cause = f.Cause.Error()
		}
		s.log.Error("request failed", "request_id", fault.Shown(requestID), "reason", string(f.Reason),
			"model_id", f.ModelID, "model_version", f.ModelVersion, "cause", cause)
	}
	return f
}

func milliseconds(d time.Duration) float32 { return float32(d.Seconds() * 1e3) }

// requestID is the request's own id or, where that is empty, 128 random bits. They only tell requests apart; nothing relies on their
// secrecy.
func requestID(given string) string {
	if given != "" {
		return given
	}
	id := make([]byte, 0, 32)
	for range 2 {
		id = append(id, "0000000000000000"...)
		digits := strconv.AppendUint(nil, rand.Uint64(), 16)
		copy(id[len(id)-len(digits):], digits)
	}
	return string(id)
}
