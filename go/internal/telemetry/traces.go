// SPDX-License-Identifier: Apache-2.0

package telemetry

import (
	"context"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/go-logr/logr"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	otelcodes "go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
)

// traces exports spans.
type traces struct {
	provider *sdktrace.TracerProvider
	tracer   trace.Tracer
	log      *slog.Logger
}

// tracesWanted tells whether the environment asks for spans.
func tracesWanted() bool {
	if strings.EqualFold(os.Getenv("OTEL_SDK_DISABLED"), "true") || os.Getenv("OTEL_TRACES_EXPORTER") == "none" {
		return false
	}
	return os.Getenv("OTEL_EXPORTER_OTLP_ENDPOINT") != "" || os.Getenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") != ""
}

// startTraces is nil where no spans are wanted, or where they cannot be: the server serves all the same.
func startTraces(options Options) *traces {
	if !tracesWanted() {
		return nil
	}
	// What the library has to say comes as our JSON.
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) { options.Log.Warn("opentelemetry", "cause", err.Error()) }))
	otel.SetLogger(logr.FromSlogHandler(options.Log.Handler()))
	// It connects when there is something to send, so a collector that is not there holds nothing up.
	exporter, err := otlptracegrpc.New(context.Background())
	if err != nil {
		options.Log.Error("no spans are exported", "cause", err.Error())
		return nil
	}
	described, err := resource.New(context.Background(),
		resource.WithAttributes(attribute.String("service.name", "concord"), attribute.String("service.version", options.Version)),
		resource.WithTelemetrySDK(),
		resource.WithFromEnv(), // the last one wins
	)
	if err != nil {
		options.Log.Warn("opentelemetry", "cause", err.Error()) // what could be read is there
	}
	// The sampler is the one that the environment names.
	provider := sdktrace.NewTracerProvider(sdktrace.WithBatcher(exporter), sdktrace.WithResource(described))
	return &traces{provider: provider, tracer: provider.Tracer("github.com/concord-inference/concord/go"), log: options.Log}
}

func (t *traces) close(ctx context.Context) {
	if err := t.provider.Shutdown(ctx); err != nil {
		t.log.Warn("some spans were not sent", "cause", err.Error())
	}
}

// spanStart is what the spans of a method begin with.
type spanStart struct {
	name    string
	options []trace.SpanStartOption
}

func newSpanStart(service, method string) spanStart {
	return spanStart{service + "/" + method, []trace.SpanStartOption{
		trace.WithSpanKind(trace.SpanKindServer),
		trace.WithAttributes(attribute.String("rpc.system", "grpc"), attribute.String("rpc.service", service), attribute.String("rpc.method", method)),
	}}
}

// begin begins the span of a call; nil where the sampler does not want it.
func (t *traces) begin(c *Call) trace.Span {
	start := c.method.span
	options := append(start.options[:len(start.options):len(start.options)], trace.WithTimestamp(c.begin))
	_, span := t.tracer.Start(trace.ContextWithRemoteSpanContext(context.Background(), c.remote), start.name, options...)
	if !span.IsRecording() {
		return nil
	}
	return span
}

// endSpan ends the call's span, with the spans below it.
func (c *Call) endSpan(name versionName, code codes.Code, reason string) {
	below := trace.ContextWithSpan(context.Background(), c.span)
	tracer := c.method.telemetry.traces.tracer
	for _, r := range c.runs {
		_, queue := tracer.Start(below, "queue", trace.WithTimestamp(r.began.Add(-r.queue)))
		queue.End(trace.WithTimestamp(r.began))
		if r.text != nil {
			t := r.text
			first := t.First
			if first.IsZero() {
				first = t.end
			}
			_, prefill := tracer.Start(below, "prefill", trace.WithTimestamp(r.began), trace.WithAttributes(attribute.Int("prompt_tokens", t.PromptTokens)))
			prefill.End(trace.WithTimestamp(first))
			if !t.First.IsZero() {
				_, decode := tracer.Start(below, "decode", trace.WithTimestamp(first),
					trace.WithAttributes(attribute.Int("tokens", t.Tokens), attribute.Int("batch_rows", t.Rows)))
				decode.End(trace.WithTimestamp(t.end))
			}
			continue
		}
		if r.rows > 0 {
			_, compute := tracer.Start(below, "compute", trace.WithTimestamp(r.began), trace.WithAttributes(attribute.Int("batch_rows", r.rows)))
			compute.End(trace.WithTimestamp(r.began.Add(r.compute)))
		}
	}
	c.span.SetAttributes(attribute.Int("rpc.grpc.status_code", int(code)))
	for _, text := range [...]struct{ key, value string }{
		{"model", name.model}, {"version", name.version}, {"request_id", shown(c.requestID)}, {"reason", reason},
	} {
		if text.value != "" {
			c.span.SetAttributes(attribute.String(text.key, text.value))
		}
	}
	if isOurs(code) {
		c.span.SetStatus(otelcodes.Error, codeNames[code])
	}
	c.span.End(trace.WithTimestamp(time.Now()))
}

// isOurs tells whether a server has to answer for a code.
func isOurs(code codes.Code) bool {
	switch code {
	case codes.Unknown, codes.DeadlineExceeded, codes.Unimplemented, codes.Internal, codes.Unavailable, codes.DataLoss:
		return true
	}
	return false
}

// remote is the caller's span, as the call's metadata tell; the zero value where they do not, or not validly.
func remote(ctx context.Context) trace.SpanContext {
	parents := metadata.ValueFromIncomingContext(ctx, "traceparent")
	if len(parents) != 1 {
		return trace.SpanContext{}
	}
	carrier := propagation.MapCarrier{"traceparent": parents[0]}
	if states := metadata.ValueFromIncomingContext(ctx, "tracestate"); len(states) > 0 {
		carrier["tracestate"] = strings.Join(states, ",")
	}
	return trace.SpanContextFromContext(propagation.TraceContext{}.Extract(context.Background(), carrier))
}
