// SPDX-License-Identifier: Apache-2.0

package server

import (
	"bytes"
	"context"
	"testing"
	"time"

	inferencev1 "github.com/concord-inference/concord/go/gen/inference/v1"
	"github.com/concord-inference/concord/go/internal/fault"
	"github.com/concord-inference/concord/go/internal/modeltest"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// asBytes is a codec that sends bytes as they are and gives the answer's.
type asBytes struct{ raw }

func (asBytes) Unmarshal(data mem.BufferSlice, v any) error {
	*v.(*[]byte) = data.Materialize()
	return nil
}

// answerTo is what a server answers to the bytes of a Predict, without times, as text: the response or the status with all its details.
func (s *started) answerTo(t *testing.T, data []byte) string {
	t.Helper()
	var answer []byte
	err := s.conn.Invoke(call(t), inferencev1.InferenceService_Predict_FullMethodName, data, &answer, grpc.ForceCodecV2(asBytes{}))
	if err != nil {
		text, err := proto.MarshalOptions{Deterministic: true}.Marshal(status.Convert(err).Proto())
		if err != nil {
			t.Fatal(err)
		}
		return "status " + string(text)
	}
	response := &inferencev1.PredictResponse{}
	if err := proto.Unmarshal(answer, response); err != nil {
		t.Fatal(err)
	}
	response.LatencyMs, response.Timing = 0, nil
	if len(response.GetRequestId()) == 32 {
		response.RequestId = "made"
	}
	text, err := proto.MarshalOptions{Deterministic: true}.Marshal(response)
	if err != nil {
		t.Fatal(err)
	}
	return "response " + string(text)
}

func wire(t testing.TB, message proto.Message) []byte {
	t.Helper()
	data, err := proto.MarshalOptions{Deterministic: true}.Marshal(message)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// TestFastDecodeChangesNoAnswer asks a server with and one without the decoder the same: requests of all kinds, each cut off everywhere and with each
// bit flipped.
func TestFastDecodeChangesNoAnswer(t *testing.T) {
	fast := start(t, nil)
	general := start(t, func(o *Options) { o.FastDecode = false })
	same := func(data []byte) string {
		t.Helper()
		got, want := fast.answerTo(t, data), general.answerTo(t, data)
		if got != want {
			t.Errorf("%x: got %q, want %q", data, got, want)
		}
		return got
	}
	plain := ask("echo", 1.5)
	plain.RequestId, plain.ModelVersion = "é", "stable"
	data := wire(t, plain)
	want := wire(t, &inferencev1.PredictResponse{
		RequestId: "é", ModelVersion: "3", Predictions: map[string]float32{"y": 1.5},
		Outputs: map[string]*inferencev1.FeatureValue{"y": modeltest.Float(1.5)},
	})
	if got := same(data); got != "response "+string(want) {
		t.Errorf("got %q, want %q", got, want)
	}
	for at := range data {
		same(data[:at])
		for bit := range 8 {
			other := bytes.Clone(data)
			other[at] ^= 1 << bit
			same(other)
		}
	}
	for _, id := range []string{"echo", "fail", "panic", "big", "broken", "wide", "none", "", "a b"} {
		same(wire(t, ask(id, 1)))
	}
	config := ask("echo", 1)
	config.Config = &inferencev1.InferenceConfig{Temperature: -1}
	unknown := ask("echo", 1)
	unknown.Features["z"] = modeltest.Float(1)
	version := ask("echo", 1)
	version.ModelVersion = "4"
	for _, request := range []*inferencev1.PredictRequest{
		config, unknown, version, {ModelId: "echo"},
		{ModelId: "echo", Features: map[string]*inferencev1.FeatureValue{"x": modeltest.Text("1")}},
		{ModelId: "echo", Features: map[string]*inferencev1.FeatureValue{"x": {}}},
		{ModelId: "echo", RequestId: string(make([]byte, 2<<20))},
	} {
		same(wire(t, request))
	}
	fast.draining.Store(true)
	general.draining.Store(true)
	same(data)
	same([]byte{0xff})
}

// TestFastDecodeHoldsNoModel takes what ends a request in each way, after which nobody holds the version.
func TestFastDecodeHoldsNoModel(t *testing.T) {
	s := start(t, nil)
	for _, id := range []string{"echo", "slow", "panic"} {
		m, f := s.options.Repository.Resolve(id, "")
		if f != nil {
			t.Fatal(f)
		}
		data := wire(t, ask(id, 1))
		switch id {
		case "echo":
			for at := range data {
				s.answerTo(t, data[:at])
			}
			s.answerTo(t, data)
			s.draining.Store(true)
			s.answerTo(t, data)
			s.draining.Store(false)
		case "slow":
			ctx, cancel := context.WithCancel(call(t))
			go func() { <-s.entered; cancel() }()
			if _, err := s.client.Predict(ctx, ask(id, 1)); status.Code(err) != codes.Canceled {
				t.Errorf("got %v", err)
			}
		default:
			s.answerTo(t, data)
		}
		freed := make(chan struct{})
		m.Release()
		m.Retire(func() { close(freed) })
		select {
		case <-freed:
		case <-time.After(patience):
			t.Errorf("%s is still held", id)
		}
	}
}

// TestPredictAllocates holds a whole Predict, from the message's bytes to the answer, to its budget of allocations. gRPC's own, the run's and those
// of the answer's bytes are not among them. The number of features does not count, except for their texts.
func TestPredictAllocates(t *testing.T) {
	const budget = 12
	s := start(t, nil)
	handle := s.guardPredict("Predict", nil)
	codec := newCodec()
	data := mem.BufferSlice{mem.SliceBuffer(wire(t, ask("echo", 1.5)))}
	in := &inference{server: s.Server}
	ctx := context.Background()
	var packed mem.BufferSlice
	got := testing.AllocsPerRun(200, func() {
		reply, err := handle(in, ctx, func(v any) error { return codec.Unmarshal(data, v) }, nil)
		if err != nil {
			t.Fatal(err)
		}
		if packed, err = codec.Marshal(reply); err != nil {
			t.Fatal(err)
		}
	})
	response := &inferencev1.PredictResponse{}
	if err := proto.Unmarshal(packed.Materialize(), response); err != nil || response.GetPredictions()["y"] != 1.5 {
		t.Errorf("got %v, %v", response, err)
	}
	t.Logf("%v allocations", got)
	if got > budget {
		t.Errorf("got %v allocations, want at most %d", got, budget)
	}
}

// TestQuickNamesItsRequest is for the log of a panic.
func TestQuickNamesItsRequest(t *testing.T) {
	s := start(t, nil)
	f := s.panicked("Predict", &quick{id: "mine"}, "cause")
	if f.Reason != fault.Internal || !bytes.Contains([]byte(s.log.String()), []byte(`"request_id":"mine"`)) {
		t.Errorf("got %v, %s", f, s.log.String())
	}
}
