// SPDX-License-Identifier: Apache-2.0

package telemetry

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	inferencev1 "github.com/concord-inference/concord/go/gen/inference/v1"
	collectorpb "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	commonpb "go.opentelemetry.io/proto/otlp/common/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
)

const (
	patience  = 30 * time.Second // far more than anything here takes
	traceID   = "4bf92f3577b34da6a3ce929d0e0e4736"
	parentID  = "00f067aa0ba902b7"
	sampled   = "00-" + traceID + "-" + parentID + "-01"
	unsampled = "00-" + traceID + "-" + parentID + "-00"
)

// collector is an OTLP receiver.
type collector struct {
	collectorpb.UnimplementedTraceServiceServer
	mu       sync.Mutex
	resource map[string]string
	spans    []*tracepb.Span
}

func (c *collector) Export(_ context.Context, request *collectorpb.ExportTraceServiceRequest) (*collectorpb.ExportTraceServiceResponse, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, resource := range request.GetResourceSpans() {
		c.resource = texts(resource.GetResource().GetAttributes())
		for _, scope := range resource.GetScopeSpans() {
			c.spans = append(c.spans, scope.GetSpans()...)
		}
	}
	return &collectorpb.ExportTraceServiceResponse{}, nil
}

// collect starts a receiver and lets the environment name it.
func collect(t *testing.T) *collector {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c, server := &collector{}, grpc.NewServer()
	collectorpb.RegisterTraceServiceServer(server, c)
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(server.Stop)
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://"+listener.Addr().String())
	return c
}

func (c *collector) named(name string) (found []*tracepb.Span) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, span := range c.spans {
		if span.GetName() == name {
			found = append(found, span)
		}
	}
	return found
}

func texts(attributes []*commonpb.KeyValue) map[string]string {
	all := map[string]string{}
	for _, a := range attributes {
		switch value := a.GetValue().GetValue().(type) {
		case *commonpb.AnyValue_StringValue:
			all[a.GetKey()] = value.StringValue
		case *commonpb.AnyValue_IntValue:
			all[a.GetKey()] = string(rune('0' + value.IntValue%10))
		}
	}
	return all
}

func from(t *testing.T, parents ...string) context.Context {
	md := metadata.MD{}
	md.Append("traceparent", parents...)
	return metadata.NewIncomingContext(t.Context(), md)
}

func flush(t *testing.T, tel *Telemetry) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	tel.Close(ctx)
}

func TestSpans(t *testing.T) {
	received := collect(t)
	tel := started(t)
	begin := time.Now()
	_, call := tel.Method("a.B", "C").Begin(from(t, sampled))
	call.Asks("r\u00851")
	call.Answers("m", "1")
	began := begin.Add(3 * time.Millisecond)
	call.Ran(began, 2*time.Millisecond, 3*time.Millisecond, 4)
	call.Ran(began, 2*time.Millisecond, 3*time.Millisecond, 4) // the same execution
	call.End(codes.OK, "")
	_, failed := tel.Unserved().Begin(t.Context())
	failed.Ran(time.Time{}, time.Second, 0, 1) // no more than a wait
	failed.End(codes.Unimplemented, "METHOD_UNIMPLEMENTED")
	flush(t, tel)

	calls := received.named("a.B/C")
	if len(calls) != 1 {
		t.Fatalf("got %d spans of the call, want 1", len(calls))
	}
	span := calls[0]
	if hex.EncodeToString(span.GetTraceId()) != traceID || hex.EncodeToString(span.GetParentSpanId()) != parentID ||
		span.GetKind() != tracepb.Span_SPAN_KIND_SERVER || span.GetStatus().GetCode() != tracepb.Status_STATUS_CODE_UNSET {
		t.Errorf("got %v", span)
	}
	got := texts(span.GetAttributes())
	for key, want := range map[string]string{
		"rpc.system": "grpc", "rpc.service": "a.B", "rpc.method": "C", "model": "m", "version": "1", "request_id": `r\u00851`, "rpc.grpc.status_code": "0",
	} {
		if got[key] != want {
			t.Errorf("%s: got %q, want %q", key, got[key], want)
		}
	}
	if got := len(received.named("queue")); got != 2 || len(received.named("compute")) != 1 {
		t.Errorf("got %d waits", got)
	}
	for name, times := range map[string][2]time.Duration{"queue": {1, 3}, "compute": {3, 6}} {
		var below []*tracepb.Span
		for _, each := range received.named(name) {
			if bytes.Equal(each.GetTraceId(), span.GetTraceId()) {
				below = append(below, each)
			}
		}
		if len(below) != 1 {
			t.Fatalf("got %d spans %s, want 1", len(below), name)
		}
		if child := below[0]; !bytes.Equal(child.GetParentSpanId(), span.GetSpanId()) ||
			child.GetStartTimeUnixNano() != uint64(begin.Add(times[0]*time.Millisecond).UnixNano()) ||
			child.GetEndTimeUnixNano() != uint64(begin.Add(times[1]*time.Millisecond).UnixNano()) {
			t.Errorf("%s: got %v", name, child)
		}
	}
	if unserved := received.named("unknown/unknown"); len(unserved) != 1 || unserved[0].GetStatus().GetCode() != tracepb.Status_STATUS_CODE_ERROR ||
		texts(unserved[0].GetAttributes())["reason"] != "METHOD_UNIMPLEMENTED" || len(unserved[0].GetParentSpanId()) != 0 {
		t.Errorf("unserved: got %v", unserved)
	}
	if received.resource["service.name"] != "concord" || received.resource["service.version"] != "1.2.3" {
		t.Errorf("resource: got %v", received.resource)
	}
}

func TestSamplerAndNameFromEnvironment(t *testing.T) {
	received := collect(t)
	t.Setenv("OTEL_TRACES_SAMPLER", "parentbased_always_off")
	t.Setenv("OTEL_SERVICE_NAME", "mine")
	tel := started(t)
	for _, ctx := range []context.Context{t.Context(), from(t, unsampled), from(t, sampled)} {
		_, call := tel.Method("a", "b").Begin(ctx)
		call.End(codes.OK, "")
	}
	flush(t, tel)
	if got := received.named("a/b"); len(got) != 1 || hex.EncodeToString(got[0].GetTraceId()) != traceID {
		t.Errorf("got %v, want the sampled caller's alone", got)
	}
	if received.resource["service.name"] != "mine" {
		t.Errorf("resource: got %v", received.resource)
	}
}

func TestInvalidTraceparent(t *testing.T) {
	for _, parents := range [][]string{
		nil, {""}, {"x"}, {sampled + "x"}, {strings.ToUpper(sampled)}, {sampled, sampled}, {"ff" + sampled[2:]},
		{"00-00000000000000000000000000000000-" + parentID + "-01"}, {"00-" + traceID + "-0000000000000000-01"},
	} {
		if got := remote(from(t, parents...)); got.IsValid() {
			t.Errorf("%q: got %v", parents, got)
		}
	}
	if got := remote(from(t, sampled)); !got.IsSampled() || got.TraceID().String() != traceID {
		t.Errorf("got %v", got)
	}
	if got := remote(t.Context()); got.IsValid() {
		t.Errorf("no metadata: got %v", got)
	}
}

func TestTracesAreOff(t *testing.T) {
	for name, value := range map[string]string{"OTEL_SDK_DISABLED": "true", "OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": ""} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
			t.Setenv(name, value)
			if started(t).traces != nil {
				t.Error("spans are exported")
			}
		})
	}
}

func TestLines(t *testing.T) {
	var out bytes.Buffer
	tel := New(Options{Log: slog.New(slog.NewJSONHandler(&out, nil))})
	tel.State("m", "1", inferencev1.ModelState_MODEL_STATE_READY)
	method := tel.Method("a.B", "C")
	end := func(ctx context.Context) {
		_, call := method.Begin(ctx)
		call.Asks("r\n\x01\u0085\"" + strings.Repeat("x", 100))
		call.Answers("m", "1")
		call.Ran(time.Now(), 1500*time.Microsecond, 250*time.Microsecond, 3)
		call.End(codes.InvalidArgument, "FEATURE_MISSING")
	}
	end(from(t, sampled))
	if out.Len() != 0 {
		t.Fatalf("at 0 got %s", &out)
	}
	tel.SetRequestLogPPM(1_000_000)
	end(from(t, unsampled))
	var got map[string]any
	if err := json.Unmarshal(out.Bytes(), &got); err != nil || strings.Count(out.String(), "\n") != 1 {
		t.Fatalf("%v: %q", err, out.String())
	}
	for key, want := range map[string]any{
		"msg": "request", "request_id": "r\n\x01\\u0085\"" + strings.Repeat("x", 59) + "...", "trace_id": traceID, "span_id": parentID, "method": "a.B/C",
		"model": "m", "version": "1", "code": "INVALID_ARGUMENT", "reason": "FEATURE_MISSING", "queue_ms": 1.5, "compute_ms": 0.25, "batch_rows": 3.0,
		"peer": "",
	} {
		if got[key] != want {
			t.Errorf("%s: got %q, want %q", key, got[key], want)
		}
	}
	if len(got) != 16 || got["duration_ms"] == nil || got["time"] == nil || got["level"] != "INFO" {
		t.Errorf("got %v", got)
	}
	out.Reset()
	tel.SetRequestLogPPM(1)
	end(from(t, sampled))
	if strings.Count(out.String(), "\n") != 1 {
		t.Errorf("a sampled trace at 1: got %q", out.String())
	}
	out.Reset()
	tel.SetRequestLogPPM(500_000)
	for range 1000 {
		end(t.Context())
	}
	// 1000 draws are outside these bounds once in 10^20 runs.
	if lines := strings.Count(out.String(), "\n"); lines < 350 || lines > 650 {
		t.Errorf("at a half: got %d lines of 1000", lines)
	}
}
