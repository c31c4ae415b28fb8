// SPDX-License-Identifier: Apache-2.0

package telemetry

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"

	"github.com/NVIDIA/go-nvml/pkg/nvml"
	"github.com/NVIDIA/go-nvml/pkg/nvml/mock"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

func TestGPU(t *testing.T) {
	var out bytes.Buffer
	device := &mock.Device{
		GetMemoryInfoFunc: func() (nvml.Memory, nvml.Return) { return nvml.Memory{Used: 3 << 30, Total: 80 << 30}, nvml.SUCCESS },
		GetUtilizationRatesFunc: func() (nvml.Utilization, nvml.Return) {
			return nvml.Utilization{Gpu: 25}, nvml.SUCCESS
		},
	}
	registry := prometheus.NewRegistry()
	showGPU(registry, device, "cuda:0", slog.New(slog.NewJSONHandler(&out, nil)))
	got := scrape(t, promhttp.HandlerFor(registry, promhttp.HandlerOpts{}), acceptText, "text/plain")
	got.want(t, `{__name__="inference_gpu_memory_used_bytes", device="cuda:0"}`, 3<<30)
	got.want(t, `{__name__="inference_gpu_memory_total_bytes", device="cuda:0"}`, 80<<30)
	got.want(t, `{__name__="inference_gpu_utilization_ratio", device="cuda:0"}`, 0.25)
	device.GetUtilizationRatesFunc = func() (nvml.Utilization, nvml.Return) { return nvml.Utilization{}, nvml.ERROR_NOT_SUPPORTED }
	for range 2 {
		got = scrape(t, promhttp.HandlerFor(registry, promhttp.HandlerOpts{}), acceptText, "text/plain")
	}
	if len(got.series) != 2 || strings.Count(out.String(), "\n") != 1 {
		t.Errorf("got %v, and in the log %s", got.series, &out)
	}
}

func TestVisibleGPUs(t *testing.T) {
	asked := ""
	library := &mock.Interface{
		InitFunc: func() nvml.Return { return nvml.SUCCESS },
		DeviceGetHandleByIndexFunc: func(index int) (nvml.Device, nvml.Return) {
			asked = string(rune('0' + index))
			return &mock.Device{}, nvml.SUCCESS
		},
		DeviceGetHandleByUUIDFunc: func(uuid string) (nvml.Device, nvml.Return) {
			asked = uuid
			return &mock.Device{}, nvml.SUCCESS
		},
	}
	for _, c := range []struct {
		visible string
		index   int
		want    string
	}{{"2,1", 0, "2"}, {"2, 1", 1, "1"}, {"GPU-a,GPU-b", 1, "GPU-b"}, {"1", 1, ""}, {"", 0, ""}} {
		t.Setenv("CUDA_VISIBLE_DEVICES", c.visible)
		asked = ""
		_, result := find(library, c.index)
		if asked != c.want || (c.want == "") != (result != nvml.SUCCESS) {
			t.Errorf("cuda:%d of %q: got %q, want %q", c.index, c.visible, asked, c.want)
		}
	}
}

// Where there is no library the server says so once and shows the rest.
func TestNoGPU(t *testing.T) {
	if nvml.New().Init() == nvml.SUCCESS {
		t.Skip("there is one")
	}
	var out bytes.Buffer
	tel := New(Options{Device: "cuda:0", Log: slog.New(slog.NewJSONHandler(&out, nil))})
	if strings.Count(out.String(), "\n") != 1 || !strings.Contains(out.String(), "no metrics of the GPU") {
		t.Errorf("got %q", out.String())
	}
	for series := range scrape(t, tel.Handler(), acceptText, "text/plain").series {
		if strings.Contains(series, "_gpu_") {
			t.Errorf("got %s", series)
		}
	}
}
