// SPDX-License-Identifier: Apache-2.0

// Package client asks a Concord server for predictions.
//
//	c, err := client.New("127.0.0.1:50051")
//	// ...
//	answer, err := c.Predict(ctx, "breast-cancer", client.Features{"mean radius": 17.99 /* ... */})
//	fmt.Println(answer.Label(), answer.Predictions)
//
//	stream := c.Stream(ctx, "smollm2", "What is the capital of France?")
//	for token := range stream.Tokens() {
//		fmt.Print(token)
//	}
//
// A failed call is an *Error: errors.As finds it, with the status code, the reason, what is wrong with the request and the time
// after which a retry helps.
package client

import (
	"context"
	"fmt"
	"sync"
	"time"

	inferencev1 "github.com/concord-inference/concord/go/gen/inference/v1"
	"google.golang.org/grpc"
)

// Client is one connection to a server. Any number of goroutines may share it.
type Client struct {
	conn      *grpc.ClientConn
	inference inferencev1.InferenceServiceClient
	catalog   inferencev1.ModelCatalogServiceClient
	timeout   time.Duration

	mu    sync.Mutex
	known map[string]*known // by model id
}

// Health is the health of a server, service or model.
type Health = inferencev1.HealthCheckResponse_ServingStatus

// What Check gives; UNKNOWN and SERVICE_UNKNOWN are possible, but no Concord server sends them.
const (
	Serving    = inferencev1.HealthCheckResponse_SERVING_STATUS_SERVING
	NotServing = inferencev1.HealthCheckResponse_SERVING_STATUS_NOT_SERVING
)

// New makes a client of the server at target: HOST:PORT or one of gRPC's names (unix:PATH, dns:///HOST:PORT). It connects at the
// first call. On loopback (127.0.0.0/8, ::1, localhost, unix sockets) the default is plaintext, elsewhere TLS with the
// authorities that this machine trusts.
//
// An option that is malformed or contradicts another one is an error, as is an unreadable file.
func New(target string, options ...Option) (*Client, error) {
	settings := defaults()
	for _, option := range options {
		option(&settings)
	}
	dialOptions, err := settings.dialOptions(target)
	if err != nil {
		return nil, fmt.Errorf("client: %w", err)
	}
	conn, err := grpc.NewClient(target, dialOptions...)
	if err != nil {
		return nil, fmt.Errorf("client: %w", err)
	}
	return &Client{
		conn:      conn,
		inference: inferencev1.NewInferenceServiceClient(conn),
		catalog:   inferencev1.NewModelCatalogServiceClient(conn),
		timeout:   settings.timeout,
		known:     map[string]*known{},
	}, nil
}

// Close ends the connection. Calls under way and later ones fail with code Canceled.
func (c *Client) Close() error { return c.conn.Close() }

// Predict asks a model for one prediction. Features with a default may be left out.
func (c *Client) Predict(ctx context.Context, model string, features Features, options ...PredictOption) (*Answer, error) {
	ctx, cancel := c.bounded(ctx)
	defer cancel()
	question := newQuestion(options)
	if len(question.requestIDs) > 1 {
		return nil, fmt.Errorf("client: expected at most 1 request id, got %d", len(question.requestIDs))
	}
	outcomes, err := c.ask(ctx, model, []Features{features}, question, c.sendOne)
	if err != nil {
		return nil, err
	}
	result := outcomes[0].result(model)
	return result.Answer, result.Err
}

// Result is one row's of a batch: an answer or an error, never both.
type Result struct {
	Answer *Answer
	// Err is nil or an *Error.
	Err error
}

// PredictBatch asks a model for one prediction a row, in one message. There is a result for each row, in the order of the rows;
// a row that fails has an error of its own and changes no other. The error that is returned beside concerns the batch as a whole.
// The server limits the rows of a batch (10000 unless configured) and its bytes.
func (c *Client) PredictBatch(ctx context.Context, model string, rows []Features, options ...PredictOption) ([]Result, error) {
	ctx, cancel := c.bounded(ctx)
	defer cancel()
	question := newQuestion(options)
	if n := len(question.requestIDs); n != 0 && n != len(rows) {
		return nil, fmt.Errorf("client: expected %d request ids, one for each row, got %d", len(rows), n)
	}
	outcomes, err := c.ask(ctx, model, rows, question, c.sendBatch)
	if err != nil {
		return nil, err
	}
	results := make([]Result, len(outcomes))
	for i := range outcomes {
		results[i] = outcomes[i].result(model)
	}
	return results, nil
}

// Models gives all models of the server, by id, those that failed to load too.
func (c *Client) Models(ctx context.Context) ([]*inferencev1.Model, error) {
	ctx, cancel := c.bounded(ctx)
	defer cancel()
	var models []*inferencev1.Model
	for token := ""; ; {
		page, err := c.catalog.ListModels(ctx, &inferencev1.ListModelsRequest{PageToken: token})
		if err != nil {
			return nil, newError(err)
		}
		models = append(models, page.GetModels()...)
		// A server that repeats its token would be asked for ever.
		if next := page.GetNextPageToken(); next == "" || next == token {
			return models, nil
		}
		token = page.GetNextPageToken()
	}
}

// Model gives one model: its versions, and all that is needed to build a request. Code NotFound where there is none.
func (c *Client) Model(ctx context.Context, model string) (*inferencev1.Model, error) {
	ctx, cancel := c.bounded(ctx)
	defer cancel()
	response, err := c.catalog.GetModel(ctx, &inferencev1.GetModelRequest{ModelId: model})
	if err != nil {
		return nil, newError(err)
	}
	c.remember(model, newKnown(response.GetModel()))
	return response.GetModel(), nil
}

// Check tells the health of the server (""), of a service by its full name, or of a model ("models/<id>"). Code NotFound for
// other names.
func (c *Client) Check(ctx context.Context, service string) (Health, error) {
	ctx, cancel := c.bounded(ctx)
	defer cancel()
	response, err := c.inference.Check(ctx, &inferencev1.HealthCheckRequest{Service: service})
	if err != nil {
		return 0, newError(err)
	}
	return response.GetStatus(), nil
}

// bounded gives a context without a deadline the client's timeout.
func (c *Client) bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, has := ctx.Deadline(); has || c.timeout == 0 {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, c.timeout)
}

// PredictOption is a setting of one prediction or batch.
type PredictOption func(*question)

// question is what the options of a prediction say.
type question struct {
	version    string
	requestIDs []string
	config     *inferencev1.InferenceConfig
	// Of Stream.
	system  string
	history []Message
	raw     bool
}

func newQuestion(options []PredictOption) *question {
	var q question
	for _, option := range options {
		option(&q)
	}
	return &q
}

func (q *question) requestID(row int) string {
	if row < len(q.requestIDs) {
		return q.requestIDs[row]
	}
	return ""
}

// Version asks for a version by its number or label, instead of the highest one that is ready.
func Version(version string) PredictOption { return func(q *question) { q.version = version } }

// RequestID names the request in the answer, in logs and traces. For a batch it is one id for each row. Without it the server
// makes one.
func RequestID(ids ...string) PredictOption { return func(q *question) { q.requestIDs = ids } }

// Config sets how text is generated.
func Config(config *inferencev1.InferenceConfig) PredictOption {
	return func(q *question) { q.config = config }
}
