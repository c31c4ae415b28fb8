// SPDX-License-Identifier: Apache-2.0

package telemetry

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/concord-inference/concord/go/internal/fault"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"
)

// isLogged draws whether the call gets a line. A trace that is recorded elsewhere has its lines here.
func (c *Call) isLogged(ppm uint32) bool {
	return c.remote.IsSampled() || rand.Uint32N(1e6) < ppm
}

// write writes the call's line.
func (c *Call) write(name versionName, code codes.Code, reason string, took time.Duration) {
	traceID, spanID := "", ""
	spans := c.remote
	if c.span != nil {
		spans = c.span.SpanContext()
	}
	if spans.IsValid() {
		traceID, spanID = spans.TraceID().String(), spans.SpanID().String()
	}
	address := ""
	if from, ok := peer.FromContext(c.Context); ok && from.Addr != nil {
		address = from.Addr.String()
	}
	c.method.telemetry.log.LogAttrs(context.Background(), slog.LevelInfo, "request",
		slog.String("request_id", shown(c.requestID)), slog.String("trace_id", traceID), slog.String("span_id", spanID),
		slog.String("method", c.method.span.name), slog.String("model", name.model), slog.String("version", name.version),
		slog.String("code", codeNames[code]), slog.String("reason", reason),
		slog.Float64("duration_ms", milliseconds(took)), slog.Float64("queue_ms", milliseconds(c.most.queue)),
		slog.Float64("compute_ms", milliseconds(c.most.compute)), slog.Int("batch_rows", c.most.rows), slog.String("peer", address))
}

// milliseconds are exact to a microsecond.
func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1e3 }

// shown is a request's id as logs and spans show it. JSON escapes most control characters; those that it leaves, some terminals obey.
func shown(id string) string {
	id = fault.Shown(id)
	if strings.IndexFunc(id, obeyed) < 0 {
		return id
	}
	var b strings.Builder
	for _, r := range id {
		if obeyed(r) {
			fmt.Fprintf(&b, `\u%04x`, r)
		} else {
			b.WriteRune(r)
		}
	}
	return b.String()
}

func obeyed(r rune) bool { return r >= 0x7f && r <= 0x9f }
