// SPDX-License-Identifier: Apache-2.0

package telemetry

import (
	"slices"
	"strings"

	inferencev1 "github.com/concord-inference/concord/go/gen/inference/v1"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/genproto/googleapis/rpc/code"
	"google.golang.org/grpc/codes"
)

var (
	durationBuckets = []float64{0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60}
	rowBuckets      = prometheus.ExponentialBuckets(1, 2, 11)
)

// metrics are the families that calls and versions have series in.
type metrics struct {
	requests   *prometheus.CounterVec
	duration   *prometheus.HistogramVec
	stage      *prometheus.HistogramVec
	batchRows  *prometheus.HistogramVec
	queueRows  *prometheus.GaugeVec
	tokens     *prometheus.CounterVec
	first      *prometheus.HistogramVec
	texts      *prometheus.GaugeVec
	cacheBytes *prometheus.GaugeVec
	rejected   *prometheus.CounterVec
	modelState *prometheus.GaugeVec
	open       prometheus.Gauge
}

func newMetrics() metrics {
	return metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "inference_requests_total", Help: "Calls that ended.",
		}, []string{"service", "method", "model", "version", "code"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "inference_request_duration_seconds", Help: "From a call at its handler to its answer.", Buckets: durationBuckets,
		}, []string{"method", "model", "version"}),
		stage: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "inference_stage_duration_seconds", Help: "Per request that ran: its wait, and the execution that held it.", Buckets: durationBuckets,
		}, []string{"stage", "model", "version"}),
		batchRows: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "inference_batch_rows", Help: "Rows of each execution.", Buckets: rowBuckets,
		}, []string{"model", "version"}),
		queueRows: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "inference_queue_rows", Help: "Rows that wait now.",
		}, []string{"model", "version"}),
		tokens: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "inference_tokens_total", Help: "Tokens generated.",
		}, []string{"model", "version"}),
		first: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "inference_time_to_first_token_seconds", Help: "From the arrival of a request to the first token of its text.", Buckets: durationBuckets,
		}, []string{"model", "version"}),
		texts: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "inference_generations", Help: "Texts that are generated now, and those that wait.",
		}, []string{"model", "version", "state"}),
		cacheBytes: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "inference_kv_cache_bytes", Help: "Most memory of the keys and values of all generations.",
		}, []string{"model", "version"}),
		rejected: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "inference_rejected_total", Help: "Errors by reason, each item of a batch for itself.",
		}, []string{"reason"}),
		modelState: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "inference_model_state", Help: "1 for the state that a version is in, 0 for the others.",
		}, []string{"model", "version", "state"}),
		open: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "inference_open_streams", Help: "Calls under way.",
		}),
	}
}

func (m *metrics) register(registry *prometheus.Registry) {
	registry.MustRegister(m.requests, m.duration, m.stage, m.batchRows, m.queueRows, m.tokens, m.first, m.texts, m.cacheBytes, m.rejected, m.modelState, m.open)
}

// states are the states that a version is shown in, with their labels.
var states = map[inferencev1.ModelState]string{
	inferencev1.ModelState_MODEL_STATE_LOADING:  "loading",
	inferencev1.ModelState_MODEL_STATE_READY:    "ready",
	inferencev1.ModelState_MODEL_STATE_FAILED:   "failed",
	inferencev1.ModelState_MODEL_STATE_DRAINING: "draining",
}

// unspecified is the reason of errors that have none: those of the gRPC library.
const unspecified = "UNSPECIFIED"

// reasons are the names of all ErrorReasons without their prefix.
func reasons() []string {
	var all []string
	for _, name := range inferencev1.ErrorReason_name {
		all = append(all, strings.TrimPrefix(name, "ERROR_REASON_"))
	}
	slices.Sort(all)
	return all
}

// codeCount is the number of gRPC's codes.
const codeCount = int(codes.Unauthenticated) + 1

// codeNames are the canonical names of gRPC's codes.
var codeNames = func() (names [codeCount]string) {
	for i := range names {
		names[i] = code.Code(i).String()
	}
	return names
}()

// known is a code that has a name.
func known(c codes.Code) codes.Code {
	if int(c) < codeCount {
		return c
	}
	return codes.Unknown
}
