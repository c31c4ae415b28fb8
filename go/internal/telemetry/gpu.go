// SPDX-License-Identifier: Apache-2.0

package telemetry

import (
	"errors"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
)

// gpu shows the memory and the load of one GPU, read at each scrape.
type gpu struct {
	management           *nvml
	device               nvmlDevice
	log                  *slog.Logger
	failed               sync.Once
	used, total, utility *prometheus.Desc
}

// registerGPU shows a GPU where the device is one; one log line says why where it cannot be shown.
func registerGPU(registry *prometheus.Registry, device, library string, log *slog.Logger) {
	text, ok := strings.CutPrefix(device, "cuda:")
	if !ok {
		return
	}
	index, err := strconv.Atoi(text)
	if err != nil {
		return
	}
	management, handle, err := find(library, index)
	if err != nil {
		log.Warn("no metrics of the GPU", "device", device, "cause", err.Error())
		return
	}
	describe := func(name, help string) *prometheus.Desc {
		return prometheus.NewDesc(name, help, nil, prometheus.Labels{"device": device})
	}
	registry.MustRegister(&gpu{
		management: management,
		device:     handle,
		log:        log,
		used:       describe("inference_gpu_memory_used_bytes", "Memory of the GPU that is in use, by whomever."),
		total:      describe("inference_gpu_memory_total_bytes", "Memory of the GPU."),
		utility:    describe("inference_gpu_utilization_ratio", "Share of the last moments in which the GPU ran something, 0 to 1."),
	})
}

var errNoGPU = errors.New("there is no such GPU")

// find is the GPU that CUDA counts as index: among those that CUDA_VISIBLE_DEVICES names, where it is set. Where GPUs of several kinds sit in one
// machine, CUDA counts as the management library does only with CUDA_DEVICE_ORDER=PCI_BUS_ID.
func find(library string, index int) (*nvml, nvmlDevice, error) {
	management, err := openNVML(library)
	if err != nil {
		return nil, 0, err
	}
	name := strconv.Itoa(index)
	if visible, ok := os.LookupEnv("CUDA_VISIBLE_DEVICES"); ok {
		names := strings.Split(visible, ",")
		if index >= len(names) {
			return nil, 0, errNoGPU
		}
		name = strings.TrimSpace(names[index])
	}
	device, err := management.find(name)
	return management, device, err
}

// Describe implements prometheus.Collector.
func (g *gpu) Describe(out chan<- *prometheus.Desc) {
	out <- g.used
	out <- g.total
	out <- g.utility
}

// Collect implements prometheus.Collector. What the GPU does not tell is left out; a slice of a GPU, say, has no load of its own.
func (g *gpu) Collect(out chan<- prometheus.Metric) {
	memory, noMemory := g.management.memory(g.device)
	if noMemory == nil {
		out <- prometheus.MustNewConstMetric(g.used, prometheus.GaugeValue, float64(memory.Used))
		out <- prometheus.MustNewConstMetric(g.total, prometheus.GaugeValue, float64(memory.Total))
	}
	percent, noLoad := g.management.load(g.device)
	if noLoad == nil {
		out <- prometheus.MustNewConstMetric(g.utility, prometheus.GaugeValue, float64(percent)/100)
	}
	if err := errors.Join(noMemory, noLoad); err != nil {
		g.failed.Do(func() { g.log.Warn("the GPU does not tell all", "cause", err.Error()) })
	}
}
