// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	inferencev1 "github.com/concord-inference/concord/go/gen/inference/v1"
	"github.com/concord-inference/concord/go/internal/modeltest"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
)

// answers are what tiny-chat has learnt.
var answers = map[string]string{
	"What is the capital of France?": "The capital of France is Paris.",
	"What is the capital of Japan?":  "The capital of Japan is Tokyo.",
	"Say hello.":                     "Hello! How can I help you today?",
	"Count to ten.":                  "one two three four five six seven eight nine ten",
	"What is 2+2?":                   "2+2 is 4.",
	"Speak Japanese.":                "こんにちは世界 🐒",
	story: "Once upon a time a small server streamed one token after another, and every token arrived in order. The client read them all, and both " +
		"servers told the same story. The end.",
}

const story = "Tell me a story."

// chat is a server of tiny-chat and of a table of numbers.
func chat(t *testing.T, args ...string) (*process, inferencev1.InferenceServiceClient) {
	t.Helper()
	directory := t.TempDir()
	for _, id := range []string{"tiny-chat", "bare-generator"} {
		if err := os.CopyFS(filepath.Join(directory, id), os.DirFS("../../../conformance/fixtures/"+id)); err != nil {
			t.Fatal(err)
		}
	}
	modeltest.Lookup(t).Write(t, filepath.Join(directory, "lookup", "1"))
	p := start(t, append([]string{"--models", directory, "--onnxruntime-genai", modeltest.GenAILibrary(t)}, args...)...)
	return p, inferencev1.NewInferenceServiceClient(dial(t, p.ready.GRPC, insecure.NewCredentials()))
}

func asks(question string) *inferencev1.PredictRequest {
	return &inferencev1.PredictRequest{ModelId: "tiny-chat", Features: map[string]*inferencev1.FeatureValue{"prompt": modeltest.Text(question)}}
}

// streamed reads a text to its end.
func streamed(client inferencev1.InferenceServiceClient, ctx context.Context, request *inferencev1.PredictRequest) (string, *inferencev1.PredictToken, error) {
	stream, err := client.StreamPredict(ctx, request)
	if err != nil {
		return "", nil, err
	}
	var text strings.Builder
	var last *inferencev1.PredictToken
	for {
		token, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return text.String(), last, nil
		}
		if err != nil {
			return text.String(), last, err
		}
		text.WriteString(token.GetToken())
		last = token
	}
}

func TestTexts(t *testing.T) {
	p, client := chat(t)
	for question, want := range answers {
		text, last, err := streamed(client, call(t), asks(question))
		if err != nil || text != want || last.GetFinishReason() != inferencev1.FinishReason_FINISH_REASON_STOP || !last.GetIsFinal() {
			t.Errorf("%s: got %q, %v, %v", question, text, last, err)
		}
		whole, err := client.Predict(call(t), asks(question))
		if err != nil || whole.GetOutputs()["text"].GetStringValue() != want || len(whole.GetOutputs()["token_ids"].GetInt64Array().GetValues()) != len(want) {
			t.Errorf("%s: got %v, %v", question, whole, err)
		}
	}
	request := asks(story)
	request.Config = &inferencev1.InferenceConfig{Stop: []string{"another, and", "nowhere"}}
	if text, last, err := streamed(client, call(t), request); err != nil || text != "Once upon a time a small server streamed one token after " ||
		last.GetFinishReason() != inferencev1.FinishReason_FINISH_REASON_STOP_SEQUENCE {
		t.Errorf("got %q, %v, %v", text, last, err)
	}
	bare := asks("What is 2+2?")
	bare.ModelId = "bare-generator"
	if text, _, err := streamed(client, call(t), bare); err != nil || text == "" {
		t.Errorf("got %q, %v", text, err)
	}
	if code := p.stop(t, syscall.SIGTERM); code != exitStopped {
		t.Errorf("exit code %d: %s", code, p.log)
	}
}

// TestTextsJoin lets a hundred texts join and leave, and 200 more that their callers give up at random moments: all others get what they get alone, greedy
// or sampled, and afterwards nothing is left of any.
func TestTextsJoin(t *testing.T) {
	p, client := chat(t, "--generation-slots=4")
	questions := make([]string, 0, len(answers))
	for question := range answers {
		questions = append(questions, question)
	}
	slices.Sort(questions)
	sampled := func(question string) *inferencev1.PredictRequest {
		request := asks(question)
		seed := uint64(len(question))
		request.Config = &inferencev1.InferenceConfig{Temperature: 3, Seed: &seed, MaxTokens: 60}
		return request
	}
	alone := map[string]string{}
	for _, question := range questions {
		text, last, err := streamed(client, call(t), sampled(question))
		if err != nil || last.GetSeed() != uint64(len(question)) {
			t.Fatal(last, err)
		}
		alone[question] = text
	}
	before := scrape(t, p.ready.HTTP)
	random := rand.New(rand.NewPCG(5, 6))
	var all sync.WaitGroup
	for i := range 300 {
		question := questions[random.IntN(len(questions))]
		pause := time.Duration(random.IntN(100)) * time.Millisecond
		give := time.Duration(1+random.IntN(20_000)) * time.Microsecond
		all.Go(func() {
			time.Sleep(pause)
			switch i % 3 {
			case 0:
				request, want := asks(question), answers[question]
				if i%2 == 0 {
					request, want = sampled(question), alone[question]
				}
				if text, _, err := streamed(client, call(t), request); err != nil || text != want {
					t.Errorf("%s: got %q, %v", question, text, err)
				}
			default:
				ctx, cancel := context.WithTimeout(context.Background(), give)
				defer cancel()
				text, _, err := streamed(client, ctx, asks(question))
				if code := status.Code(err); code != codes.OK && code != codes.DeadlineExceeded && code != codes.Canceled || !strings.HasPrefix(answers[question], text) {
					t.Errorf("got %q, %v", text, err)
				}
			}
		})
	}
	all.Wait()
	for end := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		after := scrape(t, p.ready.HTTP)
		left := after[`{__name__="inference_generations", model="tiny-chat", state="running", version="1"}`] +
			after[`{__name__="inference_generations", model="tiny-chat", state="waiting", version="1"}`]
		routines := `{__name__="go_goroutines"}`
		if left == 0 && after[routines] <= before[routines]+5 {
			if after[`{__name__="inference_tokens_total", model="tiny-chat", version="1"}`] <= before[`{__name__="inference_tokens_total", model="tiny-chat", version="1"}`] {
				t.Error("no tokens are counted")
			}
			break
		}
		if time.Now().After(end) {
			t.Fatalf("%v generations and %v goroutines are left, %v goroutines were before", left, after[routines], before[routines])
		}
	}
	if code := p.stop(t, syscall.SIGTERM); code != exitStopped {
		t.Errorf("exit code %d: %s", code, p.log)
	}
}

// TestNoGenAI refuses text generators alone where the library is missing.
func TestNoGenAI(t *testing.T) {
	lonely := filepath.Join(t.TempDir(), filepath.Base(modeltest.Library(t)))
	if err := os.Symlink(modeltest.Library(t), lonely); err != nil {
		t.Fatal(err)
	}
	directory := t.TempDir()
	if err := os.CopyFS(filepath.Join(directory, "tiny-chat"), os.DirFS("../../../conformance/fixtures/tiny-chat")); err != nil {
		t.Fatal(err)
	}
	modeltest.Lookup(t).Write(t, filepath.Join(directory, "lookup", "1"))
	p := start(t, "--models", directory, "--onnxruntime", lonely)
	client := inferencev1.NewInferenceServiceClient(dial(t, p.ready.GRPC, insecure.NewCredentials()))
	if _, err := client.Predict(call(t), lookup(1), grpc.WaitForReady(true)); err != nil {
		t.Error(err)
	}
	_, _, err := streamed(client, call(t), asks(story))
	if status.Code(err) != codes.FailedPrecondition || !strings.HasSuffix(status.Convert(err).Message(), "failed to load: kind generator: this server has no onnxruntime-genai") {
		t.Errorf("got %v", err)
	}
}
