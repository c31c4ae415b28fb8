// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"math/rand/v2"
	"strconv"
	"time"

	"github.com/concord-inference/concord/go/internal/batch"
	"github.com/concord-inference/concord/go/internal/fault"
	"github.com/concord-inference/concord/go/internal/telemetry"
	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
)

// checkBatch holds a batch's number of requests against the limit.
func (s *Server) checkBatch(requests int) *fault.Fault {
	if requests == 0 {
		return fault.Invalid(fault.BatchEmpty, "requests", "expected at least 1 request, got 0")
	}
	if most := s.limits.Load().MaxBatchRequests; requests > most {
		return fault.Invalid(fault.BatchTooLarge, "requests", "expected at most %d requests, got %d", most, requests)
	}
	return nil
}

// within is the context of a call under the server's longest time for one.
func (s *Server) within(ctx context.Context) (context.Context, context.CancelFunc) {
	most := s.limits.Load().MaxRequest
	if most <= 0 {
		return ctx, func() {}
	}
	if deadline, ok := ctx.Deadline(); ok && time.Until(deadline) <= most {
		return ctx, func() {}
	}
	return context.WithTimeoutCause(ctx, most, fault.TooLong(most))
}

// maxOutput is the most bytes of one request's outputs.
func (s *Server) maxOutput() int64 {
	if most := s.limits.Load().MaxOutputBytes; most > 0 {
		return most
	}
	return int64(s.options.MaxMessageBytes)
}

// refused is the fault that a call ends with; clients that retry by themselves are told when.
func (s *Server) refused(ctx context.Context, requestID string, f *fault.Fault) *fault.Fault {
	if f.Reason == fault.QueueFull {
		delay := strconv.FormatInt(retryOf(f).Milliseconds(), 10)
		_ = grpc.SetTrailer(ctx, metadata.Pairs("grpc-retry-pushback-ms", delay)) // fails only where nobody listens
	}
	return s.failed(requestID, f)
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

// failedItem is the status of an item of a batch that failed.
func (s *Server) failedItem(call *telemetry.Call, requestID string, f *fault.Fault) *spb.Status {
	call.Refuses(string(f.Reason))
	return statusOf(s.failed(requestID, f))
}

// ran shows where the time of a request went.
func ran(call *telemetry.Call, result *batch.Result) {
	call.Ran(result.Elapsed.Began, result.Elapsed.Queue, result.Elapsed.Compute, result.Rows)
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
