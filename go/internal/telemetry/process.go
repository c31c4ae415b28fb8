// SPDX-License-Identifier: Apache-2.0

package telemetry

import (
	"math"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/procfs"
)

// registerProcess shows the process, Go's runtime, and which build this is.
func registerProcess(registry *prometheus.Registry, version, runtime string) {
	build := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "inference_build_info", Help: "Which server this is.",
		ConstLabels: prometheus.Labels{"server": "go", "version": version, "onnxruntime": runtime},
	})
	build.Set(1)
	registry.MustRegister(
		build,
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		// The usual statistics of memory hold go_memstats_alloc_bytes and go_memstats_alloc_bytes_total: two families of one name in OpenMetrics.
		collectors.NewGoCollector(
			collectors.WithGoCollectorMemStatsMetricsDisabled(),
			collectors.WithGoCollectorRuntimeMetrics(collectors.MetricsMemory),
		),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "process_threads", Help: "Threads of the operating system."}, threads),
	)
}

func threads() float64 {
	self, err := procfs.Self()
	if err != nil {
		return math.NaN()
	}
	stat, err := self.Stat()
	if err != nil {
		return math.NaN()
	}
	return float64(stat.NumThreads)
}
