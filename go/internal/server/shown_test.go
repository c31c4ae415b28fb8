// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	inferencev1 "github.com/concord-inference/concord/go/gen/inference/v1"
	"github.com/concord-inference/concord/go/internal/batch"
	"github.com/concord-inference/concord/go/internal/modeltest"
	"github.com/concord-inference/concord/go/internal/repository"
	"github.com/concord-inference/concord/go/internal/telemetry"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	reflectionpb "google.golang.org/grpc/reflection/grpc_reflection_v1"
)

// show lets a server under test be seen. What it gives counts, by family and then the values of the labels in the order of their names.
func show(t *testing.T, options *Options) func(family string) map[string]float64 {
	t.Helper()
	shown := telemetry.New(telemetry.Options{Log: slog.New(slog.DiscardHandler)})
	options.Telemetry = shown
	for _, id := range []string{"echo", "fail", "panic"} {
		shown.State(id, "3", repository.Ready)
	}
	return func(family string) map[string]float64 {
		t.Helper()
		answer := httptest.NewRecorder()
		shown.Handler().ServeHTTP(answer, httptest.NewRequest(http.MethodGet, "/metrics", nil))
		parser := expfmt.NewTextParser(model.UTF8Validation)
		families, err := parser.TextToMetricFamilies(answer.Body)
		if err != nil {
			t.Fatal(err)
		}
		counts := map[string]float64{}
		for _, metric := range families[family].GetMetric() {
			labels := slices.Clone(metric.GetLabel())
			slices.SortFunc(labels, func(a, b *dto.LabelPair) int { return strings.Compare(a.GetName(), b.GetName()) })
			var values []string
			for _, label := range labels {
				values = append(values, label.GetValue())
			}
			value := metric.GetCounter().GetValue() + metric.GetGauge().GetValue() + float64(metric.GetHistogram().GetSampleCount())
			if value > 0 {
				counts[strings.Join(values, " ")] = value
			}
		}
		return counts
	}
}

func same(t *testing.T, what string, got, want map[string]float64) {
	t.Helper()
	if len(got) != len(want) {
		t.Errorf("%s: got %v, want %v", what, got, want)
		return
	}
	for key, value := range want {
		if got[key] != value {
			t.Errorf("%s: got %v, want %v", what, got, want)
		}
	}
}

func TestEveryCallCounts(t *testing.T) {
	var counts func(string) map[string]float64
	s := start(t, func(o *Options) { counts = show(t, o) })
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	x := map[string]*inferencev1.FeatureValue{"x": modeltest.Float(1)}
	predict := func(id string) *inferencev1.PredictRequest {
		return &inferencev1.PredictRequest{ModelId: id, Features: x}
	}
	_, _ = s.client.Predict(ctx, predict("echo"))
	_, _ = s.client.Predict(ctx, &inferencev1.PredictRequest{ModelId: "echo"})
	_, _ = s.client.Predict(ctx, predict("fail"))
	_, _ = s.client.Predict(ctx, predict("panic"))
	_, _ = s.client.Predict(ctx, predict("a-name-that-nobody-serves"))
	_, _ = s.client.Predict(ctx, predict("broken"))
	_, _ = s.client.BatchPredict(ctx, &inferencev1.BatchPredictRequest{Requests: []*inferencev1.PredictRequest{
		predict("echo"), predict("nobody"), {ModelId: "echo"}, predict("nobody"),
	}})
	_, _ = s.client.BatchPredict(ctx, &inferencev1.BatchPredictRequest{Requests: []*inferencev1.PredictRequest{predict("echo"), predict("fail")}})
	_, _ = s.client.BatchPredict(ctx, &inferencev1.BatchPredictRequest{})
	stream, err := s.client.StreamPredict(ctx, predict("echo"))
	if err != nil {
		t.Fatal(err)
	}
	_, _ = stream.Recv()
	_, _ = s.client.Check(ctx, &inferencev1.HealthCheckRequest{})
	tensors := inferencev1.NewModelInferenceClient(s.conn)
	_, _ = tensors.Predict(ctx, &inferencev1.PredictionRequest{ModelId: "echo"})
	_, _ = tensors.BatchPredict(ctx, &inferencev1.BatchPredictionRequest{Requests: []*inferencev1.PredictionRequest{{ModelId: "echo"}, {ModelId: "nobody"}}})
	catalog := inferencev1.NewModelCatalogServiceClient(s.conn)
	_, _ = catalog.ListModels(ctx, &inferencev1.ListModelsRequest{})
	_, _ = catalog.GetModel(ctx, &inferencev1.GetModelRequest{ModelId: "echo"})
	_, _ = healthpb.NewHealthClient(s.conn).Check(ctx, &healthpb.HealthCheckRequest{Service: "nobody"})
	reflection, err := reflectionpb.NewServerReflectionClient(s.conn).ServerReflectionInfo(ctx)
	if err != nil {
		t.Fatal(err)
	}
	_ = reflection.CloseSend()
	if _, err := reflection.Recv(); err != io.EOF {
		t.Errorf("reflection: %v", err)
	}
	for _, method := range []string{"/any.Service/Any", "/inference.v1.InferenceService/Nothing"} {
		_ = s.conn.Invoke(ctx, method, &inferencev1.PredictRequest{}, &inferencev1.PredictResponse{})
	}

	// Labels in the order code, method, model, service, version.
	const in, ts, ct = "inference.v1.InferenceService", "inference.v1.ModelInference", "inference.v1.ModelCatalogService"
	same(t, "requests", counts("inference_requests_total"), map[string]float64{
		"OK Predict echo " + in + " 3":                                  1,
		"INVALID_ARGUMENT Predict echo " + in + " 3":                    1,
		"INTERNAL Predict fail " + in + " 3":                            1,
		"INTERNAL Predict panic " + in + " 3":                           1,
		"NOT_FOUND Predict  " + in + " ":                                1,
		"FAILED_PRECONDITION Predict  " + in + " ":                      1,
		"OK BatchPredict echo " + in + " 3":                             1,
		"OK BatchPredict  " + in + " ":                                  1,
		"INVALID_ARGUMENT BatchPredict  " + in + " ":                    1,
		"FAILED_PRECONDITION StreamPredict echo " + in + " 3":           1,
		"OK Check  " + in + " ":                                         1,
		"INVALID_ARGUMENT Predict echo " + ts + " 3":                    1,
		"OK BatchPredict echo " + ts + " 3":                             1,
		"OK ListModels  " + ct + " ":                                    1,
		"OK GetModel  " + ct + " ":                                      1,
		"NOT_FOUND Check  grpc.health.v1.Health ":                       1,
		"OK ServerReflectionInfo  grpc.reflection.v1.ServerReflection ": 1,
		"UNIMPLEMENTED unknown  unknown ":                               2,
	})
	same(t, "rejected", counts("inference_rejected_total"), map[string]float64{
		"FEATURE_MISSING": 2, "MODEL_EXECUTION_FAILED": 2, "INTERNAL": 1, "MODEL_NOT_FOUND": 4, "MODEL_FAILED": 1, "BATCH_EMPTY": 1,
		"METHOD_NOT_SUPPORTED": 1, "TENSOR_MISSING": 2, "SERVICE_NOT_FOUND": 1, "METHOD_UNIMPLEMENTED": 2,
	})
	same(t, "durations", counts("inference_request_duration_seconds"), map[string]float64{
		"Predict echo 3": 3, "Predict fail 3": 1, "Predict panic 3": 1, "Predict  ": 2, "BatchPredict echo 3": 2, "BatchPredict  ": 2,
		"StreamPredict echo 3": 1, "Check  ": 2, "ListModels  ": 1, "GetModel  ": 1, "ServerReflectionInfo  ": 1, "unknown  ": 2,
	})
	same(t, "open", counts("inference_open_streams"), map[string]float64{})
}

func TestOpenCallsAreShown(t *testing.T) {
	var counts func(string) map[string]float64
	s := start(t, func(o *Options) { counts = show(t, o) })
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	watch, err := healthpb.NewHealthClient(s.conn).Watch(ctx, &healthpb.HealthCheckRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := watch.Recv(); err != nil {
		t.Fatal(err)
	}
	same(t, "open", counts("inference_open_streams"), map[string]float64{"": 1})
}

var _ batch.Watcher = (*telemetry.Version)(nil)
