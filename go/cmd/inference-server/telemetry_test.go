// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	inferencev1 "github.com/concord-inference/concord/go/gen/inference/v1"
	"github.com/concord-inference/concord/go/internal/modeltest"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/textparse"
	collectorpb "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
)

// collector is an OTLP receiver.
type collector struct {
	collectorpb.UnimplementedTraceServiceServer
	mu    sync.Mutex
	spans map[string][]*tracepb.Span // by name
}

func (c *collector) Export(_ context.Context, request *collectorpb.ExportTraceServiceRequest) (*collectorpb.ExportTraceServiceResponse, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, resource := range request.GetResourceSpans() {
		for _, scope := range resource.GetScopeSpans() {
			for _, span := range scope.GetSpans() {
				c.spans[span.GetName()] = append(c.spans[span.GetName()], span)
			}
		}
	}
	return &collectorpb.ExportTraceServiceResponse{}, nil
}

func lookups(t *testing.T) string {
	directory := t.TempDir()
	modeltest.Lookup(t).Write(t, filepath.Join(directory, "lookup", "1"))
	return directory
}

func lookup(index int64) *inferencev1.PredictRequest {
	return &inferencev1.PredictRequest{ModelId: "lookup", RequestId: "r\x1b[31m", Features: map[string]*inferencev1.FeatureValue{"index": modeltest.Integer(index)}}
}

// One call as its operator meets it: continued from the caller's trace at a real receiver, flushed by the drain, in the log, in a scrape.
func TestCallIsShown(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	received, receiver := &collector{spans: map[string][]*tracepb.Span{}}, grpc.NewServer()
	collectorpb.RegisterTraceServiceServer(receiver, received)
	go func() { _ = receiver.Serve(listener) }()
	t.Cleanup(receiver.Stop)
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://"+listener.Addr().String())
	t.Setenv("OTEL_BSP_SCHEDULE_DELAY", "3600000") // only the drain sends

	p := start(t, "--models", lookups(t), "--request-log-ppm", "1")
	client := inferencev1.NewInferenceServiceClient(dial(t, p.ready.GRPC, insecure.NewCredentials()))
	const traceID, parentID = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
	ctx := metadata.AppendToOutgoingContext(call(t), "traceparent", "00-"+traceID+"-"+parentID+"-01")
	if _, err := client.Predict(ctx, lookup(1)); err != nil {
		t.Fatalf("%v: %s", err, p.log)
	}
	if _, err := client.BatchPredict(call(t), &inferencev1.BatchPredictRequest{Requests: []*inferencev1.PredictRequest{lookup(0), lookup(7)}}); err != nil {
		t.Fatal(err)
	}
	got := scrape(t, p.ready.HTTP)
	for series, want := range map[string]float64{
		`{__name__="inference_requests_total", code="OK", method="Predict", model="lookup", service="inference.v1.InferenceService", version="1"}`: 1,
		`{__name__="inference_request_duration_seconds_count", method="Predict", model="lookup", version="1"}`:                                     1,
		`{__name__="inference_queue_rows", model="lookup", version="1"}`:                                                                           0,
		`{__name__="inference_model_state", model="lookup", state="ready", version="1"}`:                                                           1,
		`{__name__="inference_rejected_total", reason="MODEL_EXECUTION_FAILED"}`:                                                                   1,
		`{__name__="inference_build_info", onnxruntime="1.31.1", server="go", version="0.1.0-dev"}`:                                                1,
	} {
		if value, ok := got[series]; !ok || value != want {
			t.Errorf("%s: got %v, want %v", series, value, want)
		}
	}
	// One request alone, two together that failed, and each of those by itself.
	if runs := got[`{__name__="inference_batch_rows_count", model="lookup", version="1"}`]; runs < 3 || runs > 4 {
		t.Errorf("got %v executions", runs)
	}
	if waits := got[`{__name__="inference_stage_duration_seconds_count", model="lookup", stage="queue", version="1"}`]; waits != 3 {
		t.Errorf("got %v waits, want 3", waits)
	}
	if code := p.stop(t, syscall.SIGTERM); code != 0 {
		t.Errorf("exit code %d: %s", code, p.log)
	}

	received.mu.Lock()
	defer received.mu.Unlock()
	spans := received.spans["inference.v1.InferenceService/Predict"]
	if len(spans) != 1 {
		t.Fatalf("got %v", received.spans)
	}
	server := spans[0]
	if hex.EncodeToString(server.GetTraceId()) != traceID || hex.EncodeToString(server.GetParentSpanId()) != parentID {
		t.Errorf("got %v", server)
	}
	below := map[string]*tracepb.Span{}
	for _, name := range []string{"queue", "compute"} {
		for _, span := range received.spans[name] {
			if bytes.Equal(span.GetParentSpanId(), server.GetSpanId()) {
				below[name] = span
			}
		}
	}
	queue, compute := below["queue"], below["compute"]
	if queue == nil || compute == nil || queue.GetStartTimeUnixNano() < server.GetStartTimeUnixNano() ||
		queue.GetEndTimeUnixNano() != compute.GetStartTimeUnixNano() || compute.GetEndTimeUnixNano() <= compute.GetStartTimeUnixNano() ||
		compute.GetEndTimeUnixNano() > server.GetEndTimeUnixNano() {
		t.Errorf("not one within the other: %v, %v, %v", server, queue, compute)
	}

	var line map[string]any
	for _, text := range strings.Split(p.log.String(), "\n") {
		if strings.Contains(text, `"msg":"request"`) && strings.Contains(text, traceID) {
			if err := json.Unmarshal([]byte(text), &line); err != nil {
				t.Error(err)
			}
		}
	}
	if line["request_id"] != "r\x1b[31m" || line["span_id"] != hex.EncodeToString(server.GetSpanId()) || line["model"] != "lookup" || line["code"] != "OK" ||
		line["batch_rows"] != 1.0 || !strings.HasPrefix(line["peer"].(string), "127.0.0.1:") {
		t.Errorf("got %v", line)
	}
	if strings.Contains(p.log.String(), "\x1b") {
		t.Error("the log holds an escape character")
	}
}

// scrape is what Prometheus's own parser makes of /metrics, in the format that a Prometheus server prefers.
func scrape(t *testing.T, address string) map[string]float64 {
	t.Helper()
	request, err := http.NewRequestWithContext(call(t), http.MethodGet, "http://"+address+"/metrics", nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Accept", "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,application/openmetrics-text;version=0.0.1;q=0.5,"+
		"text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2")
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	parser, err := textparse.New(body, answer.Header.Get("Content-Type"), labels.NewSymbolTable(), textparse.ParserOptions{})
	if err != nil {
		t.Fatal(err)
	}
	series := map[string]float64{}
	for {
		entry, err := parser.Next()
		if err == io.EOF {
			return series
		}
		if err != nil {
			t.Fatalf("%v in\n%s", err, body)
		}
		if entry == textparse.EntrySeries {
			_, _, value := parser.Series()
			var set labels.Labels
			parser.Labels(&set)
			series[set.String()] = value
		}
	}
}

func TestProfilesOnLoopbackOnly(t *testing.T) {
	for http, want := range map[string]int{"127.0.0.1:0": 200, "0.0.0.0:0": 404} {
		p := start(t, "--models", t.TempDir(), "--http", http)
		address := strings.NewReplacer("0.0.0.0", "127.0.0.1", "[::]", "127.0.0.1").Replace(p.ready.HTTP)
		for path, want := range map[string]int{
			"/debug/pprof/": want, "/debug/pprof/goroutine": want, "/debug/pprof/profile?seconds=1": want, "/debug/vars": 404, "/metrics": 200, "/healthz": 200,
		} {
			if got := code(t, "http://"+address+path); got != want {
				t.Errorf("%s at %s: got %d, want %d", path, http, got, want)
			}
		}
		p.stop(t, syscall.SIGTERM)
	}
}

func code(t *testing.T, url string) int {
	t.Helper()
	request, err := http.NewRequestWithContext(call(t), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	_, _ = io.Copy(io.Discard, answer.Body)
	return answer.StatusCode
}
