// SPDX-License-Identifier: Apache-2.0

// Command echo is what gRPC itself costs: a grpc-go server that takes the contract's messages and answers what the model would.
//
//	echo --expect FILE --listen HOST:PORT                     the standard codec; no model: the ceiling for generated code
//	echo --expect FILE --listen ... --hand                    a codec written for these messages alone
//	echo --expect FILE --listen ... --hand --run MODEL.onnx   the same, and the model on what was decoded, nothing else around it:
//	                                                          the floor of what a prediction costs
package main

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"flag"
	"fmt"
	"math"
	"net"
	"os"
	"os/signal"
	"runtime/debug"
	"sync"
	"syscall"

	ort "github.com/yalue/onnxruntime_go"
	"google.golang.org/grpc"
	"google.golang.org/grpc/encoding"
	_ "google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"

	inferencev1 "github.com/concord-inference/concord/go/gen/inference/v1"
)

// described is a model's file beside its graph.
type described struct {
	Input   string    `json:"input"`
	Width   int       `json:"width"`
	Output  string    `json:"output"`
	Names   []string  `json:"names"`
	Classes []string  `json:"classes"`
	Answer  []float32 `json:"answer"`
}

func main() {
	expect := flag.String("expect", "", "the model's description, as JSON")
	listen := flag.String("listen", "127.0.0.1:0", "HOST:PORT")
	hand := flag.Bool("hand", false, "decode and encode by hand")
	run := flag.String("run", "", "with --hand: the graph to run")
	library := flag.String("library", "", "with --run: libonnxruntime")
	flag.Parse()
	debug.SetGCPercent(400)
	if err := serve(*expect, *listen, *hand, *run, *library); err != nil {
		fmt.Fprintln(os.Stderr, "echo:", err)
		os.Exit(1)
	}
}

func serve(expect, listen string, hand bool, graph, library string) error {
	text, err := os.ReadFile(expect)
	if err != nil {
		return err
	}
	var model described
	if err := json.Unmarshal(text, &model); err != nil {
		return err
	}
	options := []grpc.ServerOption{grpc.MaxRecvMsgSize(64 << 20), grpc.MaxConcurrentStreams(1024)}
	var service any = standard{answer: &model}
	handler := standardHandler
	if hand {
		h := &byHand{model: &model, columns: map[string]int{}}
		for i, name := range model.Names {
			h.columns[name] = i
		}
		if graph != "" {
			if h.session, err = open(library, graph, &model); err != nil {
				return err
			}
		}
		h.rows.New = func() any { return newRow(&model, h.session != nil) }
		service, handler = h, handHandler
		options = append(options, grpc.ForceServerCodecV2(handCodec{encoding.GetCodecV2("proto"), h}))
	}
	listener, err := net.Listen("tcp", listen)
	if err != nil {
		return err
	}
	server := grpc.NewServer(options...)
	server.RegisterService(&grpc.ServiceDesc{
		ServiceName: "inference.v1.InferenceService",
		HandlerType: (*any)(nil),
		Methods:     []grpc.MethodDesc{{MethodName: "Predict", Handler: handler}},
	}, service)
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	go func() { <-ctx.Done(); server.Stop() }()
	return server.Serve(listener)
}

// standard answers by the generated code.
type standard struct{ answer *described }

func standardHandler(service any, _ context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
	var request inferencev1.PredictRequest
	if err := decode(&request); err != nil {
		return nil, err
	}
	model := service.(standard).answer
	predictions := make(map[string]float32, len(model.Classes))
	for i, class := range model.Classes {
		predictions[class] = model.Answer[i]
	}
	return &inferencev1.PredictResponse{
		RequestId: request.GetRequestId(), Predictions: predictions, LatencyMs: 0.1, ModelVersion: "1",
		Timing: &inferencev1.Timing{QueueMs: 0.01, ComputeMs: 0.05, BatchRows: 1},
	}, nil
}

// byHand answers by code for these messages.
type byHand struct {
	model   *described
	columns map[string]int
	session *ort.DynamicAdvancedSession
	rows    sync.Pool
}

// row is what one request needs, used again by others.
type row struct {
	requestID []byte
	values    []float32
	scores    []float32
	in, out   []ort.Value
}

func newRow(model *described, run bool) *row {
	r := &row{values: make([]float32, model.Width), scores: make([]float32, len(model.Classes))}
	copy(r.scores, model.Answer)
	if run {
		in, err := ort.NewTensor(ort.NewShape(1, int64(model.Width)), r.values)
		if err != nil {
			panic(err)
		}
		out, err := ort.NewTensor(ort.NewShape(1, int64(len(model.Classes))), r.scores)
		if err != nil {
			panic(err)
		}
		r.in, r.out = []ort.Value{in}, []ort.Value{out}
	}
	return r
}

func open(library, graph string, model *described) (*ort.DynamicAdvancedSession, error) {
	ort.SetSharedLibraryPath(library)
	if err := ort.InitializeEnvironment(); err != nil {
		return nil, err
	}
	options, err := ort.NewSessionOptions()
	if err != nil {
		return nil, err
	}
	if err := options.SetIntraOpNumThreads(1); err != nil {
		return nil, err
	}
	return ort.NewDynamicAdvancedSession(graph, []string{model.Input}, []string{model.Output}, options)
}

func handHandler(service any, _ context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
	h := service.(*byHand)
	r := h.rows.Get().(*row)
	if err := decode(r); err != nil {
		return nil, err
	}
	if h.session != nil {
		if err := h.session.Run(r.in, r.out); err != nil {
			return nil, err
		}
	}
	return r, nil
}

// handCodec reads and writes rows.
type handCodec struct {
	encoding.CodecV2
	h *byHand
}

func (c handCodec) Unmarshal(data mem.BufferSlice, message any) error {
	buffer := data.MaterializeToBuffer(mem.DefaultBufferPool())
	defer buffer.Free()
	return c.h.decode(buffer.ReadOnlyData(), message.(*row))
}

func (c handCodec) Marshal(message any) (mem.BufferSlice, error) {
	r := message.(*row)
	reply := c.h.encode(r)
	c.h.rows.Put(r)
	return mem.BufferSlice{mem.SliceBuffer(reply)}, nil
}

func (h *byHand) decode(message []byte, r *row) error {
	for len(message) > 0 {
		number, kind, n := protowire.ConsumeTag(message)
		if n < 0 {
			return protowire.ParseError(n)
		}
		message = message[n:]
		if kind != protowire.BytesType {
			if n = protowire.ConsumeFieldValue(number, kind, message); n < 0 {
				return protowire.ParseError(n)
			}
			message = message[n:]
			continue
		}
		value, n := protowire.ConsumeBytes(message)
		if n < 0 {
			return protowire.ParseError(n)
		}
		message = message[n:]
		switch number {
		case 2:
			r.requestID = append(r.requestID[:0], value...)
		case 3:
			if err := h.entry(value, r); err != nil {
				return err
			}
		}
	}
	return nil
}

// entry reads one feature, as every encoder writes it: the name, then a value that is a float or an array of them.
func (h *byHand) entry(entry []byte, r *row) error {
	if len(entry) < 2 || entry[0] != 1<<3|2 {
		return fmt.Errorf("expected a name first")
	}
	name, n := protowire.ConsumeBytes(entry[1:])
	if n < 0 || len(entry) < 1+n+1 || entry[1+n] != 2<<3|2 {
		return fmt.Errorf("expected a value second")
	}
	column, ok := h.columns[string(name)]
	value, m := protowire.ConsumeBytes(entry[2+n:])
	if !ok || m < 5 {
		return fmt.Errorf("expected a known feature with a value")
	}
	switch value[0] {
	case 1<<3 | 5:
		r.values[column] = math.Float32frombits(binary.LittleEndian.Uint32(value[1:5]))
	case 3<<3 | 2:
		array, n := protowire.ConsumeBytes(value[1:])
		if n < 1 || array[0] != 1<<3|2 {
			return fmt.Errorf("expected a packed array")
		}
		packed, n := protowire.ConsumeBytes(array[1:])
		if n < 0 || len(packed) != 4*len(r.values) {
			return fmt.Errorf("expected %d numbers", len(r.values))
		}
		for i := range r.values {
			r.values[i] = math.Float32frombits(binary.LittleEndian.Uint32(packed[4*i:]))
		}
	}
	return nil
}

func (h *byHand) encode(r *row) []byte {
	out := make([]byte, 0, 160)
	out = protowire.AppendBytes(append(out, 1<<3|2), r.requestID)
	for i, class := range h.model.Classes {
		out = append(out, 2<<3|2, byte(2+len(class)+5))
		out = protowire.AppendString(append(out, 1<<3|2), class)
		out = binary.LittleEndian.AppendUint32(append(out, 2<<3|5), math.Float32bits(r.scores[i]))
	}
	out = binary.LittleEndian.AppendUint32(append(out, 3<<3|5), math.Float32bits(0.1))
	return append(out, 4<<3|2, 1, '1')
}
