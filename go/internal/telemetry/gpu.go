// SPDX-License-Identifier: Apache-2.0

package telemetry

import (
	"log/slog"
	"os"
	"strconv"
	"strings"
	"sync"

	"github.com/NVIDIA/go-nvml/pkg/nvml"
	"github.com/prometheus/client_golang/prometheus"
)

// gpu shows the memory and the load of one GPU, read at each scrape from NVIDIA's management library, which comes with the driver.
type gpu struct {
	device               nvml.Device
	log                  *slog.Logger
	failed               sync.Once
	used, total, utility *prometheus.Desc
}

// registerGPU shows a GPU where the device is one; one log line says why where it cannot be shown.
func registerGPU(registry *prometheus.Registry, device string, log *slog.Logger) {
	text, ok := strings.CutPrefix(device, "cuda:")
	if !ok {
		return
	}
	index, err := strconv.Atoi(text)
	if err != nil {
		return
	}
	library := nvml.New()
	handle, result := find(library, index)
	if result != nvml.SUCCESS {
		log.Warn("no metrics of the GPU", "device", device, "cause", why(result))
		return
	}
	showGPU(registry, handle, device, log)
}

func showGPU(registry *prometheus.Registry, handle nvml.Device, device string, log *slog.Logger) {
	describe := func(name, help string) *prometheus.Desc {
		return prometheus.NewDesc(name, help, nil, prometheus.Labels{"device": device})
	}
	registry.MustRegister(&gpu{
		device:  handle,
		log:     log,
		used:    describe("inference_gpu_memory_used_bytes", "Memory of the GPU that is in use, by whomever."),
		total:   describe("inference_gpu_memory_total_bytes", "Memory of the GPU."),
		utility: describe("inference_gpu_utilization_ratio", "Share of the last moments in which the GPU ran something, 0 to 1."),
	})
}

// find is the GPU that CUDA counts as index: among those that CUDA_VISIBLE_DEVICES names, where it is set. Where GPUs of several kinds sit in one
// machine, CUDA counts as the management library does only with CUDA_DEVICE_ORDER=PCI_BUS_ID.
func find(library nvml.Interface, index int) (nvml.Device, nvml.Return) {
	if result := library.Init(); result != nvml.SUCCESS {
		return nil, result
	}
	visible, ok := os.LookupEnv("CUDA_VISIBLE_DEVICES")
	if !ok {
		return library.DeviceGetHandleByIndex(index)
	}
	names := strings.Split(visible, ",")
	if index >= len(names) || strings.TrimSpace(names[index]) == "" {
		return nil, nvml.ERROR_NOT_FOUND
	}
	name := strings.TrimSpace(names[index])
	if number, err := strconv.Atoi(name); err == nil {
		return library.DeviceGetHandleByIndex(number)
	}
	return library.DeviceGetHandleByUUID(name)
}

// why is a failure in words; the library's own need the library.
func why(result nvml.Return) string {
	switch result {
	case nvml.ERROR_LIBRARY_NOT_FOUND:
		return "libnvidia-ml.so.1 is not here"
	case nvml.ERROR_NOT_FOUND, nvml.ERROR_INVALID_ARGUMENT:
		return "there is no such GPU"
	default:
		return "the management library answered " + strconv.Itoa(int(result))
	}
}

// Describe implements prometheus.Collector.
func (g *gpu) Describe(out chan<- *prometheus.Desc) {
	out <- g.used
	out <- g.total
	out <- g.utility
}

// Collect implements prometheus.Collector. What the GPU does not tell is left out; a slice of a GPU, say, has no load of its own.
func (g *gpu) Collect(out chan<- prometheus.Metric) {
	memory, result := g.device.GetMemoryInfo()
	if result == nvml.SUCCESS {
		out <- prometheus.MustNewConstMetric(g.used, prometheus.GaugeValue, float64(memory.Used))
		out <- prometheus.MustNewConstMetric(g.total, prometheus.GaugeValue, float64(memory.Total))
	}
	load, second := g.device.GetUtilizationRates()
	if second == nvml.SUCCESS {
		out <- prometheus.MustNewConstMetric(g.utility, prometheus.GaugeValue, float64(load.Gpu)/100)
	}
	for _, r := range []nvml.Return{result, second} {
		if r != nvml.SUCCESS {
			g.failed.Do(func() { g.log.Warn("the GPU does not tell all", "cause", why(r)) })
		}
	}
}
