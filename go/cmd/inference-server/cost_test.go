// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	inferencev1 "github.com/concord-inference/concord/go/gen/inference/v1"
	"github.com/concord-inference/concord/go/internal/config"
	"github.com/concord-inference/concord/go/internal/modeltest"
	"github.com/concord-inference/concord/go/internal/telemetry"
	"github.com/prometheus/procfs"
	"google.golang.org/grpc/credentials/insecure"
)

// A server that shows nothing is only for comparison, so only a test can start one.
func init() {
	if os.Getenv("CONCORD_TEST_SHOW_NOTHING") == "1" {
		startTelemetry = func(config.Config, *slog.Logger) *telemetry.Telemetry { return nil }
	}
}

// TestTelemetryCost measures the CPU time of the server per request, as the kernel counts it, with telemetry and without: two servers a round,
// asked in turns by 64 callers in a closed loop. It wants quiet cores, and runs where CONCORD_COST_ROUNDS says how many rounds (7, say).
func TestTelemetryCost(t *testing.T) {
	rounds, _ := strconv.Atoi(os.Getenv("CONCORD_COST_ROUNDS"))
	if rounds == 0 {
		t.Skip("CONCORD_COST_ROUNDS is not set")
	}
	const warmUp, requests, turns, callers = 5_000, 20_000, 20, 64
	directory, request := breastCancer(t)
	load := func(client inferencev1.InferenceServiceClient, n int64) {
		var left atomic.Int64
		left.Store(n)
		var all sync.WaitGroup
		ctx := t.Context()
		for range callers {
			all.Go(func() {
				for left.Add(-1) >= 0 {
					if _, err := client.Predict(ctx, request); err != nil {
						t.Error(err)
						return
					}
				}
			})
		}
		all.Wait()
	}
	names := []string{"without", "with"}
	took := map[string][]float64{}
	for range rounds {
		servers, clients := map[string]*process{}, map[string]inferencev1.InferenceServiceClient{}
		for _, name := range names {
			t.Setenv("CONCORD_TEST_SHOW_NOTHING", map[string]string{"without": "1"}[name])
			servers[name] = start(t, "--models", directory)
			if got, want := code(t, "http://"+servers[name].ready.HTTP+"/metrics"), map[string]int{"without": 404, "with": 200}[name]; got != want {
				t.Fatalf("%s telemetry: /metrics answers %d", name, got)
			}
			clients[name] = inferencev1.NewInferenceServiceClient(dial(t, servers[name].ready.GRPC, insecure.NewCredentials()))
			load(clients[name], warmUp)
		}
		before := map[string]float64{}
		for _, name := range names {
			before[name] = processor(t, servers[name].ready.PID)
		}
		// In short turns, so that whatever else the machine does hits both; who waits for its turn uses next to nothing.
		for turn := range 2 * turns {
			load(clients[names[(turn+turn/2)%2]], requests/turns)
		}
		for _, name := range names {
			took[name] = append(took[name], (processor(t, servers[name].ready.PID)-before[name])*1e6/requests)
			servers[name].stop(t, syscall.SIGTERM)
		}
		slices.Reverse(names)
	}
	var shares []float64
	for i := range took["with"] {
		shares = append(shares, 100*(took["with"][i]/took["without"][i]-1))
	}
	t.Logf("CPU us per request without: %.1f, with: %.1f", took["without"], took["with"])
	t.Logf("median without %.2f us, with %.2f us: %+.1f%%; median of the rounds' differences %+.1f%%", median(took["without"]), median(took["with"]),
		100*(median(took["with"])/median(took["without"])-1), median(shares))
}

func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	return (sorted[(len(sorted)-1)/2] + sorted[len(sorted)/2]) / 2
}

// processor is the processor time that a process has used, in seconds.
func processor(t *testing.T, pid int) float64 {
	p, err := procfs.NewProc(pid)
	if err != nil {
		t.Fatal(err)
	}
	stat, err := p.Stat()
	if err != nil {
		t.Fatal(err)
	}
	return stat.CPUTime()
}

// breastCancer is a repository with models/breast-cancer alone, and a request for it.
func breastCancer(t *testing.T) (string, *inferencev1.PredictRequest) {
	from, err := filepath.Abs("../../../models/breast-cancer")
	if err != nil {
		t.Fatal(err)
	}
	directory := t.TempDir()
	if err := os.CopyFS(filepath.Join(directory, "breast-cancer"), os.DirFS(from)); err != nil {
		t.Skipf("make demo-models makes it: %v", err)
	}
	raw, err := os.ReadFile(filepath.Join(from, "1", "manifest.json"))
	if err != nil {
		t.Fatal(err)
	}
	var manifest struct {
		Features []struct {
			Feature struct{ Name string }
		}
	}
	if err := json.Unmarshal(raw, &manifest); err != nil {
		t.Fatal(err)
	}
	request := &inferencev1.PredictRequest{ModelId: "breast-cancer", Features: map[string]*inferencev1.FeatureValue{}}
	for i, feature := range manifest.Features {
		request.Features[feature.Feature.Name] = modeltest.Float(float32(i))
	}
	return directory, request
}
