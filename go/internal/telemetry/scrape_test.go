// SPDX-License-Identifier: Apache-2.0

package telemetry

import (
	"errors"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	inferencev1 "github.com/concord-inference/concord/go/gen/inference/v1"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/textparse"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
)

// accepted is what a Prometheus server asks for: its own default, then what older ones know.
const (
	acceptOpenMetrics = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,application/openmetrics-text;version=0.0.1;q=0.4," +
		"text/plain;version=1.0.0;escaping=allow-utf-8;q=0.3,text/plain;version=0.0.4;q=0.2,*/*;q=0.1"
	acceptText = "text/plain;version=0.0.4;q=0.2,*/*;q=0.1"
)

func discard() *slog.Logger { return slog.New(slog.DiscardHandler) }

func started(t *testing.T) *Telemetry {
	t.Helper()
	return New(Options{Version: "1.2.3", Runtime: "1.31.1", Device: "cpu", Log: discard()})
}

// scraped is what Prometheus's own parser makes of a scrape: values by series, and the types of the families.
type scraped struct {
	series map[string]float64
	types  map[string]model.MetricType
}

func scrape(t *testing.T, handler http.Handler, accept, wantType string) scraped {
	t.Helper()
	request := httptest.NewRequest(http.MethodGet, "/metrics", nil)
	request.Header.Set("Accept", accept)
	answer := httptest.NewRecorder()
	handler.ServeHTTP(answer, request)
	if answer.Code != http.StatusOK || !strings.HasPrefix(answer.Header().Get("Content-Type"), wantType) {
		t.Fatalf("got %d %q, want %s", answer.Code, answer.Header().Get("Content-Type"), wantType)
	}
	parser, err := textparse.New(answer.Body.Bytes(), answer.Header().Get("Content-Type"), labels.NewSymbolTable(), textparse.ParserOptions{})
	if err != nil {
		t.Fatal(err)
	}
	all := scraped{map[string]float64{}, map[string]model.MetricType{}}
	for {
		entry, err := parser.Next()
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatalf("%v in\n%s", err, answer.Body)
		}
		switch entry {
		case textparse.EntryType:
			name, kind := parser.Type()
			all.types[string(name)] = kind
		case textparse.EntrySeries:
			_, _, value := parser.Series()
			var set labels.Labels
			parser.Labels(&set)
			all.series[set.String()] = value
		}
	}
}

func (s scraped) want(t *testing.T, series string, value float64) {
	t.Helper()
	if got, ok := s.series[series]; !ok || got != value {
		t.Errorf("%s: got %v (there: %t), want %v", series, got, ok, value)
	}
}

func TestScrape(t *testing.T) {
	tel := started(t)
	predict := tel.Method("inference.v1.InferenceService", "Predict")
	tel.State("m", "1", inferencev1.ModelState_MODEL_STATE_LOADING)
	tel.State("m", "1", inferencev1.ModelState_MODEL_STATE_READY)
	for _, code := range []codes.Code{codes.OK, codes.OK, codes.InvalidArgument} {
		_, call := predict.Begin(t.Context())
		call.Answers("m", "1")
		reason := ""
		if code != codes.OK {
			reason = "FEATURE_MISSING"
		}
		call.End(code, reason)
	}
	_, refused := predict.Begin(t.Context())
	refused.End(codes.NotFound, "MODEL_NOT_FOUND")
	_, unserved := tel.Unserved().Begin(t.Context())
	unserved.End(codes.Unimplemented, "METHOD_UNIMPLEMENTED")
	_, library := predict.Begin(t.Context())
	library.End(codes.ResourceExhausted, "")
	_, open := predict.Begin(t.Context())
	defer open.End(codes.OK, "")
	v := tel.Version("m", "1")
	v.Queued(3)
	v.Queued(-1)
	v.Began(time.Millisecond)
	v.Began(3 * time.Millisecond)
	v.Ran(2, 5, 7*time.Millisecond)

	text, open1 := scrape(t, tel.Handler(), acceptText, "text/plain; version=0.0.4"), scrape(t, tel.Handler(), acceptOpenMetrics, "application/openmetrics-text; version=1.0.0")
	for _, got := range []scraped{text, open1} {
		const called = `service="inference.v1.InferenceService"`
		got.want(t, `{__name__="inference_requests_total", code="OK", method="Predict", model="m", `+called+`, version="1"}`, 2)
		got.want(t, `{__name__="inference_requests_total", code="INVALID_ARGUMENT", method="Predict", model="m", `+called+`, version="1"}`, 1)
		got.want(t, `{__name__="inference_requests_total", code="NOT_FOUND", method="Predict", model="", `+called+`, version=""}`, 1)
		got.want(t, `{__name__="inference_requests_total", code="UNIMPLEMENTED", method="unknown", model="", service="unknown", version=""}`, 1)
		got.want(t, `{__name__="inference_request_duration_seconds_count", method="Predict", model="m", version="1"}`, 3)
		got.want(t, `{__name__="inference_stage_duration_seconds_count", model="m", stage="queue", version="1"}`, 2)
		got.want(t, `{__name__="inference_stage_duration_seconds_sum", model="m", stage="queue", version="1"}`, 0.004)
		got.want(t, `{__name__="inference_stage_duration_seconds_sum", model="m", stage="compute", version="1"}`, 0.014)
		got.want(t, `{__name__="inference_batch_rows_count", model="m", version="1"}`, 1)
		got.want(t, `{__name__="inference_batch_rows_sum", model="m", version="1"}`, 5)
		got.want(t, `{__name__="inference_queue_rows", model="m", version="1"}`, 2)
		got.want(t, `{__name__="inference_rejected_total", reason="FEATURE_MISSING"}`, 1)
		got.want(t, `{__name__="inference_rejected_total", reason="MODEL_NOT_FOUND"}`, 1)
		got.want(t, `{__name__="inference_rejected_total", reason="UNSPECIFIED"}`, 1)
		got.want(t, `{__name__="inference_rejected_total", reason="QUEUE_FULL"}`, 0)
		got.want(t, `{__name__="inference_model_state", model="m", state="ready", version="1"}`, 1)
		got.want(t, `{__name__="inference_model_state", model="m", state="loading", version="1"}`, 0)
		got.want(t, `{__name__="inference_open_streams"}`, 1)
		got.want(t, `{__name__="inference_build_info", onnxruntime="1.31.1", server="go", version="1.2.3"}`, 1)
		for _, name := range []string{
			"process_cpu_seconds_total", "process_resident_memory_bytes", "process_virtual_memory_bytes", "process_start_time_seconds", "process_open_fds",
			"process_max_fds", "process_threads", "go_goroutines",
		} {
			if value, ok := got.series[`{__name__="`+name+`"}`]; !ok || value <= 0 && name != "process_cpu_seconds_total" {
				t.Errorf("%s: got %v", name, got.series[`{__name__="`+name+`"}`])
			}
		}
	}
	for name, kind := range map[string]model.MetricType{
		"inference_requests_total": model.MetricTypeCounter, "inference_request_duration_seconds": model.MetricTypeHistogram,
		"inference_stage_duration_seconds": model.MetricTypeHistogram, "inference_batch_rows": model.MetricTypeHistogram,
		"inference_queue_rows": model.MetricTypeGauge, "inference_rejected_total": model.MetricTypeCounter,
		"inference_model_state": model.MetricTypeGauge, "inference_open_streams": model.MetricTypeGauge, "inference_build_info": model.MetricTypeGauge,
	} {
		if text.types[name] != kind {
			t.Errorf("%s is a %s, want a %s", name, text.types[name], kind)
		}
	}
	if got := bounds(text, "inference_request_duration_seconds_bucket"); len(got) != len(durationBuckets)+1 {
		t.Errorf("buckets of durations: %v", got)
	}
	if got := bounds(text, "inference_batch_rows_bucket"); len(got) != 12 || !slices.Contains(got, "1.0") || !slices.Contains(got, "1024.0") {
		t.Errorf("buckets of rows: %v", got)
	}
}

// bounds are the upper bounds of a histogram's buckets.
func bounds(s scraped, name string) []string {
	all := map[string]bool{}
	for series := range s.series {
		if rest, ok := strings.CutPrefix(series, `{__name__="`+name+`", le="`); ok {
			all[rest[:strings.IndexByte(rest, '"')]] = true
		}
	}
	return slices.Sorted(maps.Keys(all))
}

// lost is a connection to a scraper, which fails so.
type lost struct {
	*httptest.ResponseRecorder
	err error
}

func (l lost) Write([]byte) (int, error) { return 0, l.err }

func TestScraperLeaves(t *testing.T) {
	for _, c := range []struct {
		name string
		err  error
		said bool
	}{
		{"hangs up", &net.OpError{Op: "write", Err: unix.EPIPE}, false},
		{"something else", errors.New("disk full"), true},
	} {
		t.Run(c.name, func(t *testing.T) {
			var out strings.Builder
			handler := New(Options{Log: slog.New(slog.NewJSONHandler(&out, nil))}).Handler()
			handler.ServeHTTP(lost{httptest.NewRecorder(), c.err}, httptest.NewRequest(http.MethodGet, "/metrics", nil))
			if said := out.Len() > 0; said != c.said {
				t.Errorf("got the log %q", out.String())
			}
		})
	}
}

func TestVersionLeavesWithItsSeries(t *testing.T) {
	tel := started(t)
	predict, other := tel.Method("s", "Predict"), tel.Method("s", "Other")
	tel.State("m", "1", inferencev1.ModelState_MODEL_STATE_READY)
	v := tel.Version("m", "1")
	v.Queued(1)
	_, call := predict.Begin(t.Context())
	call.Answers("m", "1")
	_, late := other.Begin(t.Context())
	late.Answers("m", "1")
	call.End(codes.OK, "")
	_, unused := predict.Begin(t.Context())
	unused.Answers("m", "1")
	tel.State("m", "1", inferencev1.ModelState_MODEL_STATE_UNSPECIFIED)
	// What comes or ends afterwards brings nothing back.
	_, after := predict.Begin(t.Context())
	after.Answers("m", "1")
	for _, call := range []*Call{late, unused, after} {
		call.End(codes.OK, "")
	}
	tel.Version("m", "1").Queued(1)
	v.Queued(-1)
	v.Ran(1, 1, time.Second)
	v.setState(inferencev1.ModelState_MODEL_STATE_DRAINING)
	for series := range scrape(t, tel.Handler(), acceptText, "text/plain").series {
		if strings.Contains(series, `model="m"`) {
			t.Errorf("left behind: %s", series)
		}
	}
	// It may come back, and begins anew.
	tel.State("m", "1", inferencev1.ModelState_MODEL_STATE_FAILED)
	tel.Version("m", "1").Queued(2)
	again := scrape(t, tel.Handler(), acceptText, "text/plain")
	again.want(t, `{__name__="inference_queue_rows", model="m", version="1"}`, 2)
	again.want(t, `{__name__="inference_model_state", model="m", state="failed", version="1"}`, 1)
}

func TestBatchOfSeveralVersions(t *testing.T) {
	tel := started(t)
	method := tel.Method("s", "BatchPredict")
	tel.State("m", "1", inferencev1.ModelState_MODEL_STATE_READY)
	tel.State("m", "2", inferencev1.ModelState_MODEL_STATE_READY)
	for _, names := range [][]versionName{{{"m", "1"}, {"m", "1"}}, {{"m", "1"}, {"m", "2"}, {"m", "1"}}, {}} {
		_, call := method.Begin(t.Context())
		for _, name := range names {
			call.Answers(name.model, name.version)
		}
		call.End(codes.OK, "")
	}
	got := scrape(t, tel.Handler(), acceptText, "text/plain")
	got.want(t, `{__name__="inference_requests_total", code="OK", method="BatchPredict", model="m", service="s", version="1"}`, 1)
	got.want(t, `{__name__="inference_requests_total", code="OK", method="BatchPredict", model="", service="s", version=""}`, 2)
}

// The call itself is the one allocation; what a version's queue tells needs none.
func TestAllocations(t *testing.T) {
	tel := started(t)
	method, ctx, begin := tel.Method("s", "Predict"), t.Context(), time.Now()
	tel.State("m", "1", inferencev1.ModelState_MODEL_STATE_READY)
	v := tel.Version("m", "1")
	whole := func() {
		inner, call := method.Begin(ctx)
		CallOf(inner).Answers("m", "1")
		v.Queued(1)
		v.Queued(-1)
		v.Began(time.Microsecond)
		v.Ran(1, 1, time.Microsecond)
		call.Ran(begin, time.Microsecond, time.Microsecond, 1)
		call.End(codes.OK, "")
	}
	whole()
	if n := testing.AllocsPerRun(100, whole); n > 1 {
		t.Errorf("got %v allocations, want at most 1", n)
	}
}

func TestNothing(t *testing.T) {
	var tel *Telemetry
	ctx, call := tel.Method("s", "m").Begin(t.Context())
	if ctx != t.Context() || CallOf(ctx) != nil {
		t.Error("a nil Telemetry changed the context")
	}
	call.Asks("id")
	call.Answers("m", "1")
	call.Ran(time.Now(), 1, 1, 1)
	call.End(codes.OK, "")
	tel.Version("m", "1").Queued(1)
	tel.Rejected("INTERNAL")
	tel.State("m", "1", inferencev1.ModelState_MODEL_STATE_READY)
	tel.SetRequestLogPPM(1)
	tel.Close(t.Context())
}

// BenchmarkCall is what telemetry does for a call with one row; cpu-ns/op holds on a busy machine, too.
func BenchmarkCall(b *testing.B) {
	tel := New(Options{Log: discard()})
	method, ctx, begin := tel.Method("s", "Predict"), b.Context(), time.Now()
	tel.State("m", "1", inferencev1.ModelState_MODEL_STATE_READY)
	v := tel.Version("m", "1")
	before := processorTime(b)
	for b.Loop() {
		inner, call := method.Begin(ctx)
		CallOf(inner).Answers("m", "1")
		v.Queued(1)
		v.Queued(-1)
		v.Began(time.Microsecond)
		v.Ran(1, 1, time.Microsecond)
		call.Ran(begin, time.Microsecond, time.Microsecond, 1)
		call.End(codes.OK, "")
	}
	b.ReportMetric(float64(processorTime(b)-before)/float64(b.N), "cpu-ns/op")
}

func processorTime(b *testing.B) time.Duration {
	var usage unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &usage); err != nil {
		b.Fatal(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}
