// SPDX-License-Identifier: Apache-2.0

package client_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net"

	"github.com/concord-inference/concord/go/client"
	inferencev1 "github.com/concord-inference/concord/go/gen/inference/v1"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// oracle plays a Concord server with one model for these examples.
type oracle struct {
	inferencev1.UnimplementedInferenceServiceServer
	inferencev1.UnimplementedModelCatalogServiceServer
}

func (oracle) GetModel(context.Context, *inferencev1.GetModelRequest) (*inferencev1.GetModelResponse, error) {
	version := &inferencev1.ModelVersion{Version: "1", State: inferencev1.ModelState_MODEL_STATE_READY}
	version.Features = []*inferencev1.Feature{{Name: "mean radius", Type: inferencev1.FeatureType_FEATURE_TYPE_FLOAT, Required: true}}
	return &inferencev1.GetModelResponse{Model: &inferencev1.Model{
		ModelId: "breast-cancer", DefaultVersion: "1", Versions: []*inferencev1.ModelVersion{version}}}, nil
}

func (oracle) Predict(_ context.Context, request *inferencev1.PredictRequest) (*inferencev1.PredictResponse, error) {
	radius, given := request.GetFeatures()["mean radius"]
	if !given {
		s, err := status.New(codes.InvalidArgument, `feature "mean radius": expected a float, got nothing`).WithDetails(
			&errdetails.ErrorInfo{Reason: "FEATURE_MISSING", Domain: "concord"},
			&errdetails.BadRequest{FieldViolations: []*errdetails.BadRequest_FieldViolation{{
				Field: `features["mean radius"]`, Description: `feature "mean radius": expected a float, got nothing`}}})
		if err != nil {
			return nil, err
		}
		return nil, s.Err()
	}
	label, malignant := "benign", float32(0.25)
	if radius.GetFloatValue() > 15 {
		label, malignant = "malignant", 0.75
	}
	return &inferencev1.PredictResponse{
		ModelVersion: "1",
		Predictions:  map[string]float32{"malignant": malignant, "benign": 1 - malignant},
		Outputs: map[string]*inferencev1.FeatureValue{
			"label": {Value: &inferencev1.FeatureValue_StringValue{StringValue: label}}},
	}, nil
}

func (o oracle) BatchPredict(ctx context.Context, request *inferencev1.BatchPredictRequest) (*inferencev1.BatchPredictResponse, error) {
	response := &inferencev1.BatchPredictResponse{}
	for _, one := range request.GetRequests() {
		result := &inferencev1.BatchPredictResult{}
		if answer, err := o.Predict(ctx, one); err == nil {
			result.Result = &inferencev1.BatchPredictResult_Response{Response: answer}
		} else {
			result.Result = &inferencev1.BatchPredictResult_Error{Error: status.Convert(err).Proto()}
		}
		response.Results = append(response.Results, result)
	}
	return response, nil
}

// serve starts the oracle and gives its address.
func serve() (address string, stop func()) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	server := grpc.NewServer()
	inferencev1.RegisterInferenceServiceServer(server, oracle{})
	inferencev1.RegisterModelCatalogServiceServer(server, oracle{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := server.Serve(listener); err != nil {
			log.Print(err)
		}
	}()
	return listener.Addr().String(), func() { server.Stop(); <-done }
}

func (o oracle) StreamPredict(_ *inferencev1.PredictRequest, stream inferencev1.InferenceService_StreamPredictServer) error {
	words := []string{"The capital", " of France", " is Paris."}
	for i, word := range words {
		if err := stream.Send(&inferencev1.PredictToken{Token: word, TokenIndex: int32(i)}); err != nil {
			return err
		}
	}
	return stream.Send(&inferencev1.PredictToken{IsFinal: true, TokenIndex: 3, FinishReason: inferencev1.FinishReason_FINISH_REASON_STOP})
}

func Example() {
	address, stop := serve()
	defer stop()

	c, err := client.New(address)
	if err != nil {
		log.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	answer, err := c.Predict(context.Background(), "breast-cancer", client.Features{"mean radius": 17.99})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(answer.Label(), answer.Predictions)
	// Output: malignant map[benign:0.25 malignant:0.75]
}

func ExampleError() {
	address, stop := serve()
	defer stop()
	c, err := client.New(address)
	if err != nil {
		log.Fatal(err)
	}
	defer func() { _ = c.Close() }()

	_, err = c.Predict(context.Background(), "breast-cancer", client.Features{})
	var failed *client.Error
	if errors.As(err, &failed) {
		fmt.Println(failed.Code, failed.Reason)
		for _, violation := range failed.Violations {
			fmt.Println(violation.Field)
		}
	}
	// Output:
	// InvalidArgument FEATURE_MISSING
	// features["mean radius"]
}

func ExampleClient_PredictBatch() {
	address, stop := serve()
	defer stop()
	c, err := client.New(address)
	if err != nil {
		log.Fatal(err)
	}
	defer func() { _ = c.Close() }()

	rows := []client.Features{{"mean radius": 17.99}, {}, {"mean radius": 12}}
	results, err := c.PredictBatch(context.Background(), "breast-cancer", rows, client.Version("1"))
	if err != nil {
		log.Fatal(err)
	}
	for _, result := range results {
		if result.Err != nil {
			fmt.Println(result.Err)
			continue
		}
		fmt.Println(result.Answer.Label())
	}
	// Output:
	// malignant
	// InvalidArgument FEATURE_MISSING: feature "mean radius": expected a float, got nothing
	// benign
}

func ExampleClient_Stream() {
	address, stop := serve()
	defer stop()
	c, err := client.New(address)
	if err != nil {
		log.Fatal(err)
	}
	defer func() { _ = c.Close() }()

	stream := c.Stream(context.Background(), "smollm2", "What is the capital of France?")
	for token := range stream.Tokens() {
		fmt.Print(token)
	}
	if err := stream.Err(); err != nil {
		log.Fatal(err)
	}
	// Output: The capital of France is Paris.
}
