// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	inferencev1 "github.com/concord-inference/concord/go/gen/inference/v1"
	"github.com/concord-inference/concord/go/internal/modeltest"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
)

const graphs = "../../../conformance/admission"

// TestHostileGraphs serves the shared graphs, good and hostile, as bare models: each is what its verdict says, and the process lives.
func TestHostileGraphs(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(graphs, "verdicts.txt"))
	if err != nil {
		t.Fatal(err)
	}
	verdicts := map[string]string{}
	directory := t.TempDir()
	for line := range strings.Lines(string(text)) {
		name, verdict, _ := strings.Cut(strings.TrimSpace(line), ": ")
		verdicts[name] = verdict
		graph, err := os.ReadFile(filepath.Join(graphs, name+".onnx"))
		if err != nil {
			t.Fatal(err)
		}
		modeltest.WriteFile(t, filepath.Join(directory, name, "1", "model.onnx"), graph)
		if name == "external-listed" {
			modeltest.WriteFile(t, filepath.Join(directory, name, "1", "model.onnx.data"), make([]byte, 4))
		}
	}
	cache := filepath.Join(t.TempDir(), "cache")
	for _, round := range []string{"cold", "warm"} {
		p := start(t, "--models", directory, "--admission-cache", cache)
		catalog := inferencev1.NewModelCatalogServiceClient(dial(t, p.ready.GRPC, insecure.NewCredentials()))
		for name, verdict := range verdicts {
			response, err := catalog.GetModel(call(t), &inferencev1.GetModelRequest{ModelId: name})
			if err != nil {
				t.Fatal(err)
			}
			version := response.GetModel().GetVersions()[0]
			got := "admitted"
			if version.GetState() == inferencev1.ModelState_MODEL_STATE_FAILED {
				got = strings.TrimPrefix(version.GetError().GetMessage(), fmt.Sprintf("model %q version 1 failed to load: ", name))
			}
			if got != verdict {
				t.Errorf("%s start, %s: got %s, want %s", round, name, got, verdict)
			}
		}
		if code := p.stop(t, syscall.SIGTERM); code != 0 {
			t.Errorf("%s start: exit code %d", round, code)
		}
		if strings.Contains(p.log.String(), "trial load failed") {
			t.Errorf("log: %s", p.log)
		}
	}
	kept, err := os.ReadDir(cache)
	if err != nil || len(kept) != len(verdicts) {
		t.Errorf("%d verdicts are kept of %d, %v", len(kept), len(verdicts), err)
	}

	// A verdict that is kept is believed: there was no other trial.
	for _, item := range kept {
		line := fmt.Sprintf(`{"key":"%s","refused":"it was kept"}`, item.Name())
		if err := os.WriteFile(filepath.Join(cache, item.Name()), []byte(line), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	p := start(t, "--models", directory, "--admission-cache", cache)
	client := inferencev1.NewInferenceServiceClient(dial(t, p.ready.GRPC, insecure.NewCredentials()))
	_, err = client.Predict(call(t), &inferencev1.PredictRequest{ModelId: "identity"})
	if got := status.Convert(err).Message(); got != `model "identity" version 1 failed to load: it was kept` {
		t.Errorf("got %s", got)
	}
}

func TestIntegerDivisionIsAdmitted(t *testing.T) {
	directory := t.TempDir()
	graph, err := os.ReadFile(filepath.Join(graphs, "divide-int32-by-input.onnx"))
	if err != nil {
		t.Fatal(err)
	}
	modeltest.WriteFile(t, filepath.Join(directory, "m", "1", "model.onnx"), graph)
	p := start(t, "--models", directory, "--allow-integer-division")
	wantHealth(t, p, "models/m", healthpb.HealthCheckResponse_SERVING)
}

// TestMemoryIsLimited has a graph that is small and grows while it is loaded. ONNX Runtime would go on without a word where an allocation fails.
func TestMemoryIsLimited(t *testing.T) {
	directory := t.TempDir()
	modeltest.WriteFile(t, filepath.Join(directory, "folded", "1", "model.onnx"), modeltest.Graph(t, "folded.onnx"))
	modeltest.Lookup(t).Write(t, filepath.Join(directory, "lookup", "1"))
	p := start(t, "--models", directory, "--admission-memory-bytes", "268435456")
	client := inferencev1.NewInferenceServiceClient(dial(t, p.ready.GRPC, insecure.NewCredentials()))
	_, err := client.Predict(call(t), &inferencev1.PredictRequest{ModelId: "folded"})
	if got := status.Convert(err).Message(); got != `model "folded" version 1 failed to load: trial load: needs more than 268435456 bytes of memory` {
		t.Errorf("got %s", got)
	}
	wantHealth(t, p, "models/lookup", healthpb.HealthCheckResponse_SERVING)
}

func wantHealth(t *testing.T, p *process, name string, want healthpb.HealthCheckResponse_ServingStatus) {
	t.Helper()
	stream, err := healthpb.NewHealthClient(dial(t, p.ready.GRPC, insecure.NewCredentials())).
		Watch(call(t), &healthpb.HealthCheckRequest{Service: name})
	if err != nil {
		t.Fatal(err)
	}
	for {
		response, err := stream.Recv()
		if err != nil {
			t.Fatalf("%s is not %s: %v: %s", name, want, err, p.log)
		}
		if response.GetStatus() == want {
			return
		}
	}
}

// TestAdministered loads, labels and unloads versions of a running server while it is asked: no request fails.
func TestAdministered(t *testing.T) {
	directory, staging := t.TempDir(), t.TempDir()
	modeltest.Lookup(t).Write(t, filepath.Join(directory, "lookup", "1"))
	for _, number := range []string{"2", "3", "4", "5"} {
		modeltest.Lookup(t).Write(t, filepath.Join(staging, "lookup", number))
	}
	p := start(t, "--models", directory, "--staging", staging, "--admin-listen", "127.0.0.1:0", "--repository-poll-ms", "5")
	if !strings.HasPrefix(p.ready.Admin, "127.0.0.1:") || strings.HasSuffix(p.ready.Admin, ":0") {
		t.Fatalf("admin %q", p.ready.Admin)
	}
	wantHealth(t, p, "inference.v1.ModelAdminService", healthpb.HealthCheckResponse_SERVING)
	conn := dial(t, p.ready.GRPC, insecure.NewCredentials())
	client := inferencev1.NewInferenceServiceClient(conn)
	admin := inferencev1.NewModelAdminServiceClient(dial(t, p.ready.Admin, insecure.NewCredentials()))
	predict := func(version string) (*inferencev1.PredictResponse, error) {
		return client.Predict(call(t), &inferencev1.PredictRequest{
			ModelId: "lookup", ModelVersion: version, Features: map[string]*inferencev1.FeatureValue{"index": modeltest.Integer(1)},
		})
	}
	var stop atomic.Bool
	var asked atomic.Int64
	var callers sync.WaitGroup
	for range 4 {
		callers.Go(func() {
			for !stop.Load() {
				response, err := predict("")
				if err != nil || response.GetPredictions()["number"] != 20 {
					t.Errorf("got %v, %v", response, err)
					return
				}
				asked.Add(1)
			}
		})
	}
	// answers asks until an answer is as it should be; each ask is a round trip, and call bounds them all.
	answers := func(version, want string) {
		t.Helper()
		for end := call(t); ; {
			response, err := predict(version)
			if err == nil && response.GetModelVersion() == want || err != nil && status.Code(err).String() == want {
				return
			}
			if end.Err() != nil {
				t.Fatalf("version %q: got %v, %v, want %s", version, response, err, want)
			}
		}
	}
	admit := func(_ any, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	ctx := context.Background()
	for _, number := range []string{"2", "3", "4", "5"} {
		admit(admin.LoadModel(ctx, &inferencev1.LoadModelRequest{ModelId: "lookup", ModelVersion: number}))
		answers("", number)
		admit(admin.SetLabel(ctx, &inferencev1.SetLabelRequest{ModelId: "lookup", Label: "stable", ModelVersion: number}))
		answers("stable", number)
	}
	for _, number := range []string{"5", "1", "3"} {
		admit(admin.UnloadModel(ctx, &inferencev1.UnloadModelRequest{ModelId: "lookup", ModelVersion: number}))
		answers(number, codes.NotFound.String())
	}
	answers("", "4")
	answers("stable", codes.NotFound.String()) // it still names 5
	stop.Store(true)
	callers.Wait()
	if asked.Load() == 0 {
		t.Error("nothing was asked")
	}
	if err := os.RemoveAll(filepath.Join(directory, "lookup")); err != nil {
		t.Fatal(err)
	}
	wantHealth(t, p, "models/lookup", healthpb.HealthCheckResponse_SERVICE_UNKNOWN)
	if code := p.stop(t, syscall.SIGTERM); code != 0 {
		t.Errorf("exit code %d: %s", code, p.log)
	}
}

// TestRenamedInIsServedSoon has a period in which the test would end: the operating system tells of the change.
func TestRenamedInIsServedSoon(t *testing.T) {
	directory := t.TempDir()
	modeltest.Lookup(t).Write(t, filepath.Join(directory, "lookup", "1"))
	p := start(t, "--models", directory, "--repository-poll-ms", "60000")
	client := inferencev1.NewInferenceServiceClient(dial(t, p.ready.GRPC, insecure.NewCredentials()))
	answers := func(version, want string) time.Duration {
		t.Helper()
		begin := time.Now()
		for end := call(t); end.Err() == nil; {
			response, err := client.Predict(end, &inferencev1.PredictRequest{
				ModelId: "lookup", ModelVersion: version, Features: map[string]*inferencev1.FeatureValue{"index": modeltest.Integer(1)},
			})
			if err == nil && response.GetModelVersion() == want {
				return time.Since(begin)
			}
		}
		t.Fatalf("version %q is not %s in time: %s", version, want, p.log)
		return 0
	}
	answers("", "1")
	for _, number := range []string{"2", "3"} {
		beside := filepath.Join(directory, "lookup", ".beside")
		modeltest.Lookup(t).Write(t, beside)
		if err := os.Rename(beside, filepath.Join(directory, "lookup", number)); err != nil {
			t.Fatal(err)
		}
		t.Logf("version %s answers after %s", number, answers("", number))
		label := filepath.Join(directory, "lookup", "labels.json")
		modeltest.WriteFile(t, label+".new", []byte(`{"stable":`+number+`}`))
		if err := os.Rename(label+".new", label); err != nil {
			t.Fatal(err)
		}
		t.Logf("the label answers after %s", answers("stable", number))
	}
	if code := p.stop(t, syscall.SIGTERM); code != 0 {
		t.Errorf("exit code %d: %s", code, p.log)
	}
}
