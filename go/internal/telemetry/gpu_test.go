// SPDX-License-Identifier: Apache-2.0

package telemetry

import (
	"bytes"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// management builds a management library that stands in for NVIDIA's.
func management(t *testing.T) string {
	t.Helper()
	library := filepath.Join(t.TempDir(), "management.so")
	if out, err := exec.Command("cc", "-shared", "-fPIC", "-o", library, filepath.Join("testdata", "nvml.c")).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return library
}

func TestGPU(t *testing.T) {
	library := management(t)
	for _, c := range []struct {
		visible, device string
		used            float64 // GiB; 0: there is no such GPU
		load            bool
	}{
		{"unset", "cuda:0", 3, true}, {"unset", "cuda:1", 5, false}, {"unset", "cuda:2", 0, false}, {"unset", "cpu", 0, false},
		{"1,0", "cuda:0", 5, false}, {"1, 0", "cuda:1", 3, true}, {"GPU-1,GPU-0", "cuda:1", 3, true}, {"1", "cuda:1", 0, false},
		{"", "cuda:0", 0, false}, {"GPU-x", "cuda:0", 0, false},
	} {
		t.Run(c.visible+" "+c.device, func(t *testing.T) {
			t.Setenv("CUDA_VISIBLE_DEVICES", c.visible)
			if c.visible == "unset" {
				_ = os.Unsetenv("CUDA_VISIBLE_DEVICES") // Setenv puts back what was there
			}
			var out bytes.Buffer
			registry := prometheus.NewRegistry()
			registerGPU(registry, c.device, library, slog.New(slog.NewJSONHandler(&out, nil)))
			want := map[string]float64{}
			if c.used > 0 {
				want[`{__name__="inference_gpu_memory_used_bytes", device="`+c.device+`"}`] = c.used * (1 << 30)
				want[`{__name__="inference_gpu_memory_total_bytes", device="`+c.device+`"}`] = 80 << 30
			}
			if c.load {
				want[`{__name__="inference_gpu_utilization_ratio", device="`+c.device+`"}`] = 0.25
			}
			for range 2 {
				got := scrape(t, promhttp.HandlerFor(registry, promhttp.HandlerOpts{}), acceptText, "text/plain")
				if len(got.series) != len(want) {
					t.Errorf("got %v", got.series)
				}
				for series, value := range want {
					got.want(t, series, value)
				}
			}
			lines := 1 // what cannot be told is said once
			if c.device == "cpu" || c.load {
				lines = 0
			}
			if strings.Count(out.String(), "\n") != lines {
				t.Errorf("got the log %q", out.String())
			}
		})
	}
}

// Where there is no library the server says so once and shows the rest.
func TestNoGPU(t *testing.T) {
	if _, err := openNVML(nvmlLibrary); err == nil {
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
