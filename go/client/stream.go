// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"strings"
	"time"

	inferencev1 "github.com/concord-inference/concord/go/gen/inference/v1"
)

// Token is one token of a text.
type Token struct {
	Text  string // empty while a character of several bytes is incomplete
	ID    int64
	Index int // from 0
}

// String is the token's text.
func (t Token) String() string { return t.Text }

// Finish is how a text ended.
type Finish struct {
	Reason           inferencev1.FinishReason // the model's own end, its longest, or a text of InferenceConfig.stop
	PromptTokens     int                      // the chat template's included
	CompletionTokens int
	Seed             uint64 // of a sampled text: with it the same request gives the same tokens; else 0
	TimeToFirstToken time.Duration
	TokensPerSecond  float32 // after the first
	ModelVersion     string
	RequestID        string
}

// Message is one of a conversation.
type Message struct {
	Role    string `json:"role"` // "system", "user", "assistant", or whatever else the model's template knows
	Content string `json:"content"`
}

// TokenStream is a text as it comes. One goroutine uses it.
type TokenStream struct {
	start  func() (context.CancelFunc, inferencev1.InferenceService_StreamPredictClient, error)
	text   strings.Builder
	finish *Finish
	err    error
	begun  bool
}

// Stream asks a text generator. Nothing is sent before Tokens is ranged over.
//
//	stream := c.Stream(ctx, "smollm2", "What is the capital of France?")
//	for token := range stream.Tokens() {
//		fmt.Print(token)
//	}
//	err := stream.Err()
func (c *Client) Stream(ctx context.Context, model, prompt string, options ...PredictOption) *TokenStream {
	question := newQuestion(options)
	stream := &TokenStream{}
	request, err := question.streamRequest(model, prompt)
	if err != nil {
		stream.err, stream.begun = err, true
		return stream
	}
	stream.start = func() (context.CancelFunc, inferencev1.InferenceService_StreamPredictClient, error) {
		ctx, done := c.bounded(ctx)
		ctx, cancel := context.WithCancel(ctx)
		call, err := c.inference.StreamPredict(ctx, request)
		return func() { cancel(); done() }, call, err
	}
	return stream
}

// Tokens are the text's tokens, each as soon as it is there. Leaving the loop ends the text, on the server too. It can be ranged over once.
func (s *TokenStream) Tokens() iter.Seq[Token] {
	return func(yield func(Token) bool) {
		if s.begun {
			return
		}
		s.begun = true
		cancel, call, err := s.start()
		defer cancel()
		if err != nil {
			s.err = newError(err)
			return
		}
		for {
			message, err := call.Recv()
			switch {
			case errors.Is(err, io.EOF):
				s.err = errors.New("client: the stream ended without a final message")
				return
			case err != nil:
				s.err = newError(err)
				return
			case message.GetIsFinal():
				s.finish = newFinish(message)
				return
			}
			s.text.WriteString(message.GetToken())
			if !yield(Token{message.GetToken(), message.GetTokenId(), int(message.GetTokenIndex())}) {
				return
			}
		}
	}
}

// Err tells why the tokens ended before the text did: an *Error; nil where it is whole, or where the loop was left.
func (s *TokenStream) Err() error { return s.err }

// Finish is how the text ended; nil where it has not.
func (s *TokenStream) Finish() *Finish { return s.finish }

// Text is what has come so far.
func (s *TokenStream) Text() string { return s.text.String() }

func newFinish(message *inferencev1.PredictToken) *Finish {
	timing := message.GetTiming()
	return &Finish{
		Reason:           message.GetFinishReason(),
		PromptTokens:     int(message.GetUsage().GetPromptTokens()),
		CompletionTokens: int(message.GetUsage().GetCompletionTokens()),
		Seed:             message.GetSeed(),
		TimeToFirstToken: time.Duration(float64(timing.GetTimeToFirstTokenMs()) * float64(time.Millisecond)),
		TokensPerSecond:  timing.GetTokensPerSecond(),
		ModelVersion:     message.GetModelVersion(),
		RequestID:        message.GetRequestId(),
	}
}

// System is a system message for Stream, before everything else.
func System(text string) PredictOption { return func(q *question) { q.system = text } }

// History is for Stream what was said before the prompt.
func History(messages ...Message) PredictOption { return func(q *question) { q.history = messages } }

// Raw makes the prompt of Stream the very text that is continued, without the model's chat template.
func Raw() PredictOption { return func(q *question) { q.raw = true } }

func (q *question) streamRequest(model, prompt string) (*inferencev1.PredictRequest, error) {
	if len(q.requestIDs) > 1 {
		return nil, fmt.Errorf("client: expected at most 1 request id, got %d", len(q.requestIDs))
	}
	features := map[string]*inferencev1.FeatureValue{}
	text := func(name, value string) {
		features[name] = &inferencev1.FeatureValue{Value: &inferencev1.FeatureValue_StringValue{StringValue: value}}
	}
	if len(q.history) == 0 {
		text("prompt", prompt)
	} else {
		said := append(append([]Message{}, q.history...), Message{"user", prompt})
		messages, err := json.Marshal(said)
		if err != nil {
			return nil, fmt.Errorf("client: %w", err)
		}
		text("messages", string(messages))
	}
	if q.system != "" {
		text("system", q.system)
	}
	if q.raw {
		features["raw"] = &inferencev1.FeatureValue{Value: &inferencev1.FeatureValue_BoolValue{BoolValue: true}}
	}
	return &inferencev1.PredictRequest{
		ModelId: model, ModelVersion: q.version, RequestId: q.requestID(0), Config: q.config, Features: features,
	}, nil
}
