// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"math"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"text/tabwriter"
	"time"

	inferencev1 "github.com/concord-inference/concord/go/gen/inference/v1"
	modelpackagev1 "github.com/concord-inference/concord/go/gen/modelpackage/v1"
	"github.com/concord-inference/concord/go/internal/batch"
	"github.com/concord-inference/concord/go/internal/model"
	"github.com/concord-inference/concord/go/internal/modeltest"
	"github.com/concord-inference/concord/go/internal/ort"
	"github.com/concord-inference/concord/go/internal/repository"
	"github.com/concord-inference/concord/go/internal/tensor"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

// benchColumns is the width of the input of every graph that is measured.
const benchColumns = 30

// benchPolicies are what is compared: what the server chooses by itself, and each policy by configuration.
var benchPolicies = []struct {
	name     string
	settings batch.Settings
}{
	{"chosen", batch.Settings{}},
	{"inline", batch.Settings{Policy: batch.Inline, OwnPolicy: true}},
	{"direct", batch.Settings{Policy: batch.Direct, OwnPolicy: true}},
	{"adaptive, 1 executor", batch.Settings{Policy: batch.Adaptive, OwnPolicy: true, Executors: 1}},
	{"adaptive, all cores", batch.Settings{Policy: batch.Adaptive, OwnPolicy: true, Executors: runtime.GOMAXPROCS(0)}},
}

// BenchmarkPolicies sends one row a request over gRPC to each graph (*.onnx of CONCORD_BENCH_GRAPHS, whose one input has 30 floats) from 1, 16, 64 and
// 256 callers under each policy, in turns, and prints the medians of requests per second and of microseconds of processor a request, client included. The
// last two columns hold the chosen policy against the best of the others by each measure:
//
//	CONCORD_BENCH_GRAPHS=DIR go test ./internal/server -run '^$' -bench Policies -benchtime 1x -timeout 60m
func BenchmarkPolicies(b *testing.B) {
	directory := os.Getenv("CONCORD_BENCH_GRAPHS")
	if directory == "" {
		b.Skip("CONCORD_BENCH_GRAPHS names no directory of graphs")
	}
	graphs, err := filepath.Glob(filepath.Join(directory, "*.onnx"))
	if err != nil || len(graphs) == 0 {
		b.Fatalf("no graphs: %v", err)
	}
	const rounds, turn = 15, 150 * time.Millisecond
	library, err := ort.Open(modeltest.Library(b), 1)
	if err != nil {
		b.Fatal(err)
	}
	for _, graph := range graphs {
		id := strings.TrimSuffix(filepath.Base(graph), ".onnx")
		b.Run(id, func(b *testing.B) {
			var now atomic.Pointer[batch.Settings]
			now.Store(&batch.Settings{})
			models, client := benchServer(b, library, id, graph, func(string) batch.Settings { return *now.Load() })
			entry, f := models.Entry(id)
			if f != nil {
				b.Fatal(f)
			}
			input := entry.Versions[0].Model.Inputs()[0].Name
			var table strings.Builder
			w := tabwriter.NewWriter(&table, 0, 0, 2, ' ', 0)
			fmt.Fprintf(w, "callers")
			for _, p := range benchPolicies {
				fmt.Fprintf(w, "\t%s", p.name)
			}
			fmt.Fprintln(w, "\tby rate\tby cost")
			for range b.N {
				for _, callers := range []int{1, 16, 64, 256} {
					rates, costs := make([][]float64, len(benchPolicies)), make([][]float64, len(benchPolicies))
					for range rounds {
						for i, p := range benchPolicies {
							now.Store(&p.settings)
							models.ApplyBatching()
							rate, cost := load(b, client, id, input, callers, turn)
							rates[i], costs[i] = append(rates[i], rate), append(costs[i], cost)
						}
					}
					best, cheapest := 0., math.Inf(1)
					fmt.Fprintf(w, "%d", callers)
					for i := range rates {
						slices.Sort(rates[i])
						slices.Sort(costs[i])
						rate, cost := rates[i][rounds/2], costs[i][rounds/2]
						if i > 0 {
							best, cheapest = max(best, rate), min(cheapest, cost)
						}
						fmt.Fprintf(w, "\t%.0f/s %.0fus", rate, cost)
					}
					fmt.Fprintf(w, "\t%.2f\t%.2f\n", rates[0][rounds/2]/best, cheapest/costs[0][rounds/2])
				}
			}
			w.Flush()
			now.Store(&batch.Settings{})
			models.ApplyBatching()
			b.Logf("requests per second, chosen is %v\n%s", entry.Versions[0].Model.Execution(), table.String())
		})
	}
}

// load is how many requests a second so many callers get answered, and how many microseconds of processor one takes.
func load(b *testing.B, clients []inferencev1.ModelInferenceClient, id, input string, callers int, d time.Duration) (rate, cost float64) {
	var answered atomic.Int64
	var group sync.WaitGroup
	begin, before := time.Now(), processor(b)
	for n := range callers {
		client := clients[n%len(clients)]
		x := benchRows(1)
		group.Go(func() {
			for time.Since(begin) < d {
				request := &inferencev1.PredictionRequest{ModelId: id, Inputs: map[string]*inferencev1.Tensor{input: x}}
				if _, err := client.Predict(context.Background(), request); err != nil {
					b.Error(err)
					return
				}
				answered.Add(1)
			}
		})
	}
	group.Wait()
	n := float64(answered.Load())
	return n / time.Since(begin).Seconds(), float64((processor(b) - before).Microseconds()) / n
}

// processor is the time that this process has had.
func processor(b *testing.B) time.Duration {
	var usage unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &usage); err != nil {
		b.Fatal(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

func benchRows(rows int64) *inferencev1.Tensor {
	x := tensor.Make(tensor.Float32, []int64{rows, benchColumns})
	for i := 2; i < len(x.Data); i += 4 {
		x.Data[i], x.Data[i+1] = byte(rand.IntN(128)), 0x3f
	}
	return tensor.ToWire(&x)
}

// benchServer serves a graph as a batchable package, and has a few connections to itself.
func benchServer(b *testing.B, library *ort.Runtime, id, graph string, settings func(string) batch.Settings) (*repository.Repository, []inferencev1.ModelInferenceClient) {
	data, err := os.ReadFile(graph)
	if err != nil {
		b.Fatal(err)
	}
	session, err := library.Load(data, nil)
	if err != nil {
		b.Fatal(err)
	}
	m := model.New(id, "1", inferencev1.ModelKind_MODEL_KIND_TENSOR, session, nil, false, 0)
	golden := &modelpackagev1.GoldenSet{}
	for range 40 {
		request := &inferencev1.PredictionRequest{Inputs: map[string]*inferencev1.Tensor{m.Inputs()[0].Name: benchRows(1)}}
		inputs, wanted, f := model.DecodeTensors(m, request.Inputs, nil)
		if f != nil {
			b.Fatal(f)
		}
		outputs, _, err := m.Run(context.Background(), inputs, wanted)
		if err != nil {
			b.Fatal(err)
		}
		answer := &inferencev1.PredictionResponse{Outputs: map[string]*inferencev1.Tensor{}}
		for i := range outputs {
			answer.Outputs[m.Outputs()[i].Name] = tensor.ToWire(&outputs[i])
		}
		golden.Cases = append(golden.Cases, &modelpackagev1.GoldenCase{
			Request: &modelpackagev1.GoldenCase_Tensors{Tensors: request}, Answer: &modelpackagev1.GoldenCase_Outputs{Outputs: answer},
		})
	}
	m.Close()
	directory := b.TempDir()
	modeltest.Package{Graph: data, Golden: golden, Manifest: &modelpackagev1.Manifest{
		Kind: inferencev1.ModelKind_MODEL_KIND_TENSOR, Batching: &modelpackagev1.Batching{Batchable: true},
	}}.Write(b, filepath.Join(directory, id, "1"))
	log := slog.New(slog.NewTextHandler(io.Discard, nil))
	models, err := repository.Open(directory, repository.Options{Load: library.Load, Batching: settings, Log: log})
	if err != nil {
		b.Fatal(err)
	}
	if err := models.List(); err != nil {
		b.Fatal(err)
	}
	models.Load(context.Background())
	server := New(Options{Repository: models, Health: NewHealth(), MaxMessageBytes: 100 << 20, MaxBatchRequests: 100, Log: log, MaxRequest: 5 * time.Minute})
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	go server.Serve(listener)
	var clients []inferencev1.ModelInferenceClient
	for range 8 {
		conn, err := grpc.NewClient(listener.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { conn.Close() })
		clients = append(clients, inferencev1.NewModelInferenceClient(conn))
	}
	b.Cleanup(func() {
		server.Stop()
		models.Close()
	})
	return models, clients
}
