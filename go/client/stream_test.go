// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	inferencev1 "github.com/concord-inference/concord/go/gen/inference/v1"
	"google.golang.org/grpc/codes"
)

type streamServer = inferencev1.InferenceService_StreamPredictServer

// say sends words as tokens.
func say(stream streamServer, words ...string) error {
	for i, word := range words {
		err := stream.Send(&inferencev1.PredictToken{
			Token: word, TokenIndex: int32(i), TokenId: int64(i + 10), RequestId: "r", ModelVersion: "3",
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// end sends the final message.
func end(stream streamServer, count int32) error {
	return stream.Send(&inferencev1.PredictToken{
		IsFinal: true, TokenIndex: count, RequestId: "r", ModelVersion: "3", Seed: 7,
		FinishReason: inferencev1.FinishReason_FINISH_REASON_STOP,
		Usage:        &inferencev1.Usage{PromptTokens: 9, CompletionTokens: count},
		Timing:       &inferencev1.Timing{BatchRows: 1, TimeToFirstTokenMs: 1.5, TokensPerSecond: 80},
	})
}

func talking(t *testing.T, stream func(*inferencev1.PredictRequest, streamServer) error) (*fakeServer, *Client) {
	t.Helper()
	fake := start(t)
	fake.stream = stream
	return fake, connect(t, fake.address)
}

func TestStreamGivesTokensAndHowTheyEnded(t *testing.T) {
	fake, c := talking(t, func(_ *inferencev1.PredictRequest, stream streamServer) error {
		if err := say(stream, "The", " capital", "", " is", " Paris."); err != nil {
			return err
		}
		return end(stream, 5)
	})
	stream := c.Stream(context.Background(), "chat", "What is the capital?")
	if stream.Finish() != nil || len(fake.seen()) != 0 {
		t.Fatal("something was sent before the tokens were asked for")
	}
	var text strings.Builder
	var tokens []Token
	for token := range stream.Tokens() {
		text.WriteString(token.String())
		tokens = append(tokens, token)
	}
	if err := stream.Err(); err != nil {
		t.Fatal(err)
	}
	if text.String() != "The capital is Paris." || stream.Text() != text.String() {
		t.Errorf("got %q and %q", text.String(), stream.Text())
	}
	if len(tokens) != 5 || tokens[1] != (Token{" capital", 11, 1}) {
		t.Errorf("got %v", tokens)
	}
	want := Finish{
		Reason: inferencev1.FinishReason_FINISH_REASON_STOP, PromptTokens: 9, CompletionTokens: 5, Seed: 7,
		TimeToFirstToken: 1500 * time.Microsecond, TokensPerSecond: 80, ModelVersion: "3", RequestID: "r",
	}
	if got := stream.Finish(); got == nil || *got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	for range stream.Tokens() {
		t.Fatal("the tokens came twice")
	}
	if got := fake.methods(0); got != "StreamPredict" {
		t.Errorf("called %s: the catalog need not be asked", got)
	}
	request, is := fake.seen()[0].request.(*inferencev1.PredictRequest)
	if !is || request.GetFeatures()["prompt"].GetStringValue() != "What is the capital?" || len(request.GetFeatures()) != 1 {
		t.Errorf("sent %v", request)
	}
	if fake.seen()[0].deadline.IsZero() {
		t.Error("sent without a deadline")
	}
}

func TestStreamSendsWhatItIsTold(t *testing.T) {
	fake, c := talking(t, func(_ *inferencev1.PredictRequest, stream streamServer) error { return end(stream, 0) })
	stream := c.Stream(context.Background(), "chat", "größe", System("short"), Version("stable"), RequestID("mine"),
		History(Message{"user", "a"}, Message{"assistant", "b"}), Config(&inferencev1.InferenceConfig{MaxTokens: 5}))
	for range stream.Tokens() {
		t.Fatal("a token came")
	}
	if err := stream.Err(); err != nil {
		t.Fatal(err)
	}
	request, _ := fake.seen()[0].request.(*inferencev1.PredictRequest)
	features := request.GetFeatures()
	const messages = `[{"role":"user","content":"a"},{"role":"assistant","content":"b"},{"role":"user","content":"größe"}]`
	if features["messages"].GetStringValue() != messages || features["system"].GetStringValue() != "short" || len(features) != 2 {
		t.Errorf("sent %v", features)
	}
	if request.GetModelVersion() != "stable" || request.GetRequestId() != "mine" || request.GetConfig().GetMaxTokens() != 5 {
		t.Errorf("sent %v", request)
	}
	for range c.Stream(context.Background(), "chat", "x", Raw()).Tokens() {
		t.Fatal("a token came")
	}
	request, _ = fake.seen()[1].request.(*inferencev1.PredictRequest)
	if !request.GetFeatures()["raw"].GetBoolValue() {
		t.Errorf("sent %v", request)
	}
	if err := c.Stream(context.Background(), "chat", "x", RequestID("a", "b")).Err(); err == nil {
		t.Error("two request ids were taken")
	}
}

func TestStreamTellsAnErrorInTheMiddle(t *testing.T) {
	_, c := talking(t, func(_ *inferencev1.PredictRequest, stream streamServer) error {
		if err := say(stream, "one", " two"); err != nil {
			return err
		}
		return failure(codes.Internal, "MODEL_EXECUTION_FAILED", "the model failed")
	})
	stream := c.Stream(context.Background(), "chat", "x")
	count := 0
	for range stream.Tokens() {
		count++
	}
	if e := asError(t, stream.Err(), codes.Internal); e.Reason != "MODEL_EXECUTION_FAILED" || count != 2 || stream.Text() != "one two" {
		t.Errorf("got %v after %d tokens, %q", e, count, stream.Text())
	}
}

func TestStreamWithoutAnEndIsAnError(t *testing.T) {
	_, c := talking(t, func(_ *inferencev1.PredictRequest, stream streamServer) error { return say(stream, "one") })
	stream := c.Stream(context.Background(), "chat", "x")
	for range stream.Tokens() {
	}
	if stream.Err() == nil || stream.Finish() != nil {
		t.Errorf("got %v and %v", stream.Err(), stream.Finish())
	}
}

func TestStreamEndsOnTheServerWhenTheLoopIsLeft(t *testing.T) {
	gone := make(chan struct{})
	_, c := talking(t, func(_ *inferencev1.PredictRequest, stream streamServer) error {
		if err := say(stream, "again"); err != nil {
			return err
		}
		<-stream.Context().Done()
		close(gone)
		return stream.Context().Err()
	})
	stream := c.Stream(context.Background(), "chat", "x")
	for range stream.Tokens() {
		break
	}
	if stream.Err() != nil || stream.Text() != "again" {
		t.Errorf("got %v, %q", stream.Err(), stream.Text())
	}
	<-gone
}

func TestStreamEndsWithItsContext(t *testing.T) {
	_, c := talking(t, func(_ *inferencev1.PredictRequest, stream streamServer) error {
		if err := say(stream, "again"); err != nil {
			return err
		}
		<-stream.Context().Done()
		return stream.Context().Err()
	})
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	stream := c.Stream(ctx, "chat", "x")
	for range stream.Tokens() {
		cancel()
	}
	if !errors.Is(stream.Err(), context.Canceled) {
		t.Errorf("got %v", stream.Err())
	}
}
