// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	inferencev1 "github.com/concord-inference/concord/go/gen/inference/v1"
	"github.com/concord-inference/concord/go/internal/fault"
	"github.com/concord-inference/concord/go/internal/generate"
	"github.com/concord-inference/concord/go/internal/modeltest"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// chatting is a server with the model "chat": it goes on with the alphabet, in two slots of 64 tokens.
func chatting(t *testing.T, change func(*Options), prepare func(*started)) *started {
	t.Helper()
	if prepare == nil {
		prepare = func(*started) {}
	}
	return startWith(t, change, prepare)
}

func going(prompt string, tokens int32) *inferencev1.PredictRequest {
	return &inferencev1.PredictRequest{
		ModelId: "chat", RequestId: "r-" + prompt, Config: &inferencev1.InferenceConfig{MaxTokens: tokens},
		Features: map[string]*inferencev1.FeatureValue{"prompt": modeltest.Text(prompt), "raw": modeltest.Bool(true)},
	}
}

// received reads a stream to its end.
func received(stream grpc.ServerStreamingClient[inferencev1.PredictToken]) (all []*inferencev1.PredictToken, err error) {
	for {
		token, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return all, nil
		}
		if err != nil {
			return all, err
		}
		all = append(all, token)
	}
}

func TestTextStream(t *testing.T) {
	s := chatting(t, nil, nil)
	stream, err := s.client.StreamPredict(t.Context(), going("v", 0))
	if err != nil {
		t.Fatal(err)
	}
	tokens, err := received(stream)
	if err != nil || len(tokens) != 5 {
		t.Fatal(tokens, err)
	}
	for i, token := range tokens[:4] {
		if token.GetToken() != "wxyz"[i:i+1] || token.GetTokenId() != int64("wxyz"[i]) || token.GetTokenIndex() != int32(i) || token.GetIsFinal() ||
			token.GetRequestId() != "r-v" || token.GetModelVersion() != "2" || token.GetUsage() != nil || token.GetTiming() != nil || token.GetFinishReason() != 0 {
			t.Errorf("got %v", token)
		}
	}
	final := tokens[4]
	if final.GetToken() != "" || !final.GetIsFinal() || final.GetTokenIndex() != 4 || final.GetFinishReason() != inferencev1.FinishReason_FINISH_REASON_STOP ||
		final.GetUsage().GetPromptTokens() != 1 || final.GetUsage().GetCompletionTokens() != 4 || final.GetSeed() != 0 || final.GetRequestId() != "r-v" ||
		final.GetModelVersion() != "2" || final.GetTiming().GetBatchRows() != 1 || final.GetTiming().GetTimeToFirstTokenMs() <= 0 || final.GetTiming().GetTokensPerSecond() <= 0 {
		t.Errorf("got %v", final)
	}
}

func TestPredictText(t *testing.T) {
	s := chatting(t, nil, nil)
	request := going("v", 3)
	request.Config.Temperature = 0.5
	request.Config.TopK = 1
	request.RequestId = ""
	answer, err := s.client.Predict(t.Context(), request)
	if err != nil {
		t.Fatal(err)
	}
	if answer.GetOutputs()["text"].GetStringValue() != "wxy" || !slices.Equal(answer.GetOutputs()["token_ids"].GetInt64Array().GetValues(), []int64{'w', 'x', 'y'}) ||
		len(answer.GetOutputs()) != 2 || answer.GetFinishReason() != inferencev1.FinishReason_FINISH_REASON_LENGTH || answer.GetUsage().GetCompletionTokens() != 3 ||
		answer.GetSeed() == 0 || len(answer.GetRequestId()) != 32 || answer.GetModelVersion() != "2" || answer.GetLatencyMs() <= 0 || answer.GetTiming().GetBatchRows() != 1 {
		t.Errorf("got %v", answer)
	}
	stream, err := s.client.StreamPredict(t.Context(), request)
	if err != nil {
		t.Fatal(err)
	}
	if tokens, err := received(stream); err != nil || len(tokens) != 4 || len(tokens[0].GetRequestId()) != 32 || tokens[3].GetSeed() == 0 {
		t.Error(tokens, err)
	}
}

// TestBatchPredictTexts generates side by side, with what fails and what is no text between.
func TestBatchPredictTexts(t *testing.T) {
	s := chatting(t, nil, nil)
	batch := &inferencev1.BatchPredictRequest{}
	for i := range 9 {
		batch.Requests = append(batch.Requests, going(string(rune('o'+i)), 4))
	}
	batch.Requests[4] = going(strings.Repeat("x", 64), 1)
	batch.Requests[6] = &inferencev1.PredictRequest{ModelId: "echo", Features: map[string]*inferencev1.FeatureValue{"x": modeltest.Float(7)}}
	gate := make(chan struct{})
	s.alphabet.SetGate(gate)
	engine := s.engine(t)
	go func() {
		for end := time.Now().Add(patience); engine.Inside() < 2 && time.Now().Before(end); {
			time.Sleep(time.Millisecond)
		}
		close(gate)
	}()
	answer, err := s.client.BatchPredict(t.Context(), batch)
	if err != nil {
		t.Fatal(err)
	}
	shared := int32(0)
	for i, result := range answer.GetResults() {
		switch i {
		case 4:
			if codes.Code(result.GetError().GetCode()) != codes.InvalidArgument {
				t.Errorf("got %v", result)
			}
		case 6:
			if result.GetResponse().GetPredictions()["y"] != 7 {
				t.Errorf("got %v", result)
			}
		default:
			text := "pqrstuvwxyz"[i:min(i+4, 11)]
			if result.GetResponse().GetOutputs()["text"].GetStringValue() != text || result.GetResponse().GetRequestId() != "r-"+string(rune('o'+i)) {
				t.Errorf("%d: got %v", i, result)
			}
			shared = max(shared, result.GetResponse().GetTiming().GetBatchRows())
		}
	}
	if shared != 2 {
		t.Errorf("at most %d side by side", shared)
	}
}

func TestTextFaults(t *testing.T) {
	s := chatting(t, nil, nil)
	tensors := inferencev1.NewModelInferenceClient(s.conn)
	_, err := tensors.Predict(t.Context(), &inferencev1.PredictionRequest{ModelId: "chat"})
	wantReason(t, err, codes.FailedPrecondition, fault.MethodNotSupported)
	stream, err := s.client.StreamPredict(t.Context(), &inferencev1.PredictRequest{ModelId: "echo"})
	if err != nil {
		t.Fatal(err)
	}
	_, err = received(stream)
	wantReason(t, err, codes.FailedPrecondition, fault.MethodNotSupported)
	for _, c := range []struct {
		request *inferencev1.PredictRequest
		reason  fault.Reason
	}{
		{going(strings.Repeat("x", 64), 1), fault.PromptTooLong},
		{going("", 1), fault.PromptInvalid},
		{&inferencev1.PredictRequest{ModelId: "chat", Config: &inferencev1.InferenceConfig{TopP: 2}}, fault.ConfigInvalid},
		{&inferencev1.PredictRequest{ModelId: "chat", Features: map[string]*inferencev1.FeatureValue{"prompt": modeltest.Float(1)}}, fault.FeatureTypeMismatch},
		{&inferencev1.PredictRequest{ModelId: "chat", Features: map[string]*inferencev1.FeatureValue{"prompt": modeltest.Text("x"), "q": modeltest.Float(1)}}, fault.FeatureUnknown},
	} {
		_, err := s.client.Predict(t.Context(), c.request)
		wantReason(t, err, codes.InvalidArgument, c.reason)
		stream, err := s.client.StreamPredict(t.Context(), c.request)
		if err != nil {
			t.Fatal(err)
		}
		_, streamed := received(stream)
		wantReason(t, streamed, codes.InvalidArgument, c.reason)
	}
}

func wantReason(t *testing.T, err error, code codes.Code, reason fault.Reason) {
	t.Helper()
	got := ""
	for _, detail := range status.Convert(err).Details() {
		if info, ok := detail.(*errdetails.ErrorInfo); ok {
			got = info.GetReason()
		}
	}
	if status.Code(err) != code || got != string(reason) {
		t.Errorf("got %v %s, want %s %s", err, got, code, reason)
	}
}

// TestTextFailsMidway delivers what there was, then says why there is no more.
func TestTextFailsMidway(t *testing.T) {
	s := chatting(t, nil, func(s *started) {
		s.alphabet.Fail = func(row generate.Row) error {
			if row.Tokens[0] == 'd' {
				return errors.New("Gather at /build/gather.cc: out of bounds")
			}
			return nil
		}
	})
	stream, err := s.client.StreamPredict(t.Context(), going("a", 9))
	if err != nil {
		t.Fatal(err)
	}
	tokens, err := received(stream)
	wantReason(t, err, codes.Internal, fault.ModelExecutionFailed)
	if len(tokens) != 3 || !strings.Contains(status.Convert(err).Message(), `model "chat" version 2 failed on this input: Gather at <...> out of bounds`) {
		t.Errorf("got %v, %v", tokens, err)
	}
}

// TestTextQueueFull tells who finds no room when to come again.
func TestTextQueueFull(t *testing.T) {
	s := chatting(t, nil, func(s *started) { s.maxQueueRows = 1 })
	gate := make(chan struct{})
	s.alphabet.SetGate(gate)
	var all sync.WaitGroup
	for range 3 {
		stream, err := s.client.StreamPredict(t.Context(), going("x", 1))
		if err != nil {
			t.Fatal(err)
		}
		all.Go(func() {
			if tokens, err := received(stream); err != nil || len(tokens) != 2 {
				t.Error(tokens, err)
			}
		})
	}
	engine := s.engine(t)
	for engine.Inside() < 3 {
		time.Sleep(time.Millisecond)
	}
	var trailer metadata.MD
	_, err := s.client.Predict(t.Context(), going("x", 1), grpc.Trailer(&trailer))
	wantReason(t, err, codes.ResourceExhausted, fault.QueueFull)
	if len(trailer["grpc-retry-pushback-ms"]) != 1 {
		t.Errorf("got %v", trailer)
	}
	stream, err := s.client.StreamPredict(t.Context(), going("x", 1))
	if err != nil {
		t.Fatal(err)
	}
	_, err = received(stream)
	wantReason(t, err, codes.ResourceExhausted, fault.QueueFull)
	if len(stream.Trailer()["grpc-retry-pushback-ms"]) != 1 {
		t.Errorf("got %v", stream.Trailer())
	}
	close(gate)
	all.Wait()
}

func (s *started) engine(t *testing.T) *generate.Engine {
	t.Helper()
	m, f := s.options.Repository.Resolve("chat", "")
	if f != nil {
		t.Fatal(f)
	}
	m.Release()
	return m.Generator
}

// TestStreamEnds ends streams by deadline, by cancel and by the server's longest time: their slots are free.
func TestStreamEnds(t *testing.T) {
	s := chatting(t, func(o *Options) { o.MaxRequest = 300 * time.Millisecond }, nil)
	s.alphabet.SetGate(make(chan struct{}))
	begun := func(ctx context.Context) func() error {
		stream, err := s.client.StreamPredict(ctx, going("x", 1))
		if err != nil {
			t.Fatal(err)
		}
		return func() error {
			_, err := received(stream)
			return err
		}
	}
	wantReason(t, begun(t.Context())(), codes.DeadlineExceeded, fault.DeadlineExceeded)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := begun(ctx)(); status.Code(err) != codes.DeadlineExceeded {
		t.Errorf("got %v", err)
	}
	ctx, cancel = context.WithCancel(t.Context())
	err := begun(ctx)
	cancel()
	if err := err(); status.Code(err) != codes.Canceled {
		t.Errorf("got %v", err)
	}
	engine := s.engine(t)
	for end := time.Now().Add(patience); engine.Inside() > 0; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("a slot is not free")
		}
	}
}

// TestNobodyReadsTheStream lets a text run to its end while its caller reads nothing; the handler ends when the server's time is up, and others are not held up.
func TestNobodyReadsTheStream(t *testing.T) {
	s := chatting(t, func(o *Options) { o.MaxRequest = time.Second }, func(s *started) { s.alphabet.Length = 1 << 16 })
	s.alphabet.Endless()
	conn, err := grpc.NewClient(s.listener.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithInitialWindowSize(1<<16), grpc.WithInitialConnWindowSize(1<<16))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	stream, err := inferencev1.NewInferenceServiceClient(conn).StreamPredict(t.Context(), going("x", 60000))
	if err != nil {
		t.Fatal(err)
	}
	engine := s.engine(t)
	for end := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		answer, err := s.client.Predict(t.Context(), going("x", 2))
		if err != nil || answer.GetOutputs()["text"].GetStringValue() != "yz" {
			t.Fatal(answer, err)
		}
		if engine.Inside() == 0 {
			break
		}
		if time.Now().After(end) {
			t.Fatal("the slot is not free")
		}
	}
	tokens, err := received(stream)
	wantReason(t, err, codes.DeadlineExceeded, fault.DeadlineExceeded)
	if len(tokens) == 0 || len(tokens) > 60000 {
		t.Errorf("%d tokens", len(tokens))
	}
}

// TestDrainWaitsForTexts lets what is under way finish, and takes nothing new.
func TestDrainWaitsForTexts(t *testing.T) {
	s := chatting(t, nil, nil)
	gate := make(chan struct{})
	s.alphabet.SetGate(gate)
	stream, err := s.client.StreamPredict(t.Context(), going("v", 9))
	if err != nil {
		t.Fatal(err)
	}
	engine := s.engine(t)
	for engine.Inside() < 1 {
		time.Sleep(time.Millisecond)
	}
	finished := make(chan bool)
	go func() { finished <- s.Drain(context.Background(), 0, patience) }()
	for !s.draining.Load() {
		time.Sleep(time.Millisecond)
	}
	close(gate)
	if tokens, err := received(stream); err != nil || len(tokens) != 5 {
		t.Error(tokens, err)
	}
	if !<-finished {
		t.Error("the drain did not wait")
	}
}

func TestCatalogOfTexts(t *testing.T) {
	s := chatting(t, nil, nil)
	answer, err := inferencev1.NewModelCatalogServiceClient(s.conn).GetModel(t.Context(), &inferencev1.GetModelRequest{ModelId: "chat"})
	if err != nil {
		t.Fatal(err)
	}
	v := answer.GetModel().GetVersions()[0]
	var names []string
	for _, feature := range v.GetFeatures() {
		names = append(names, feature.GetName())
		if feature.GetRequired() || feature.GetDefaultValue() == nil || feature.GetDescription() == "" {
			t.Errorf("got %v", feature)
		}
	}
	if !slices.Equal(names, []string{"prompt", "messages", "raw", "system"}) || v.GetKind() != inferencev1.ModelKind_MODEL_KIND_GENERATOR || !v.GetVerified() ||
		len(v.GetOutputs()) != 2 || len(v.GetInputTensors()) != 0 || v.GetExecution().GetGenerationSlots() != 2 || v.GetExecution().GetContextLength() != 64 {
		t.Errorf("got %v", v)
	}
}
