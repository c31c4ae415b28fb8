// SPDX-License-Identifier: Apache-2.0

// Command raw is what the model itself costs: ONNX Runtime's C library in this process, one row at a time on memory that is ready, nothing
// around it. It writes one JSON object, in the form of command load.
//
//	raw --expect FILE --model FILE.onnx --library libonnxruntime.so [--callers 1] [--seconds 2]
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"math"
	"os"
	"time"

	ort "github.com/yalue/onnxruntime_go"

	"github.com/concord-inference/concord/bench/load/generator"
	"github.com/concord-inference/concord/bench/load/process"
)

func main() {
	expect := flag.String("expect", "", "the model's description, as JSON")
	graph := flag.String("model", "", "the graph")
	library := flag.String("library", "", "libonnxruntime")
	request := flag.String("row", "", "file with the row: 32-bit floats, little-endian")
	callers := flag.Int("callers", 1, "threads")
	seconds := flag.Float64("seconds", 2, "seconds that are measured")
	warm := flag.Float64("warm", 0.5, "seconds before that")
	flag.Parse()
	if err := run(*expect, *graph, *library, *request, *callers, *seconds, *warm); err != nil {
		fmt.Fprintln(os.Stderr, "raw:", err)
		os.Exit(1)
	}
}

func run(expect, graph, library, request string, callers int, seconds, warm float64) error {
	var model struct {
		Input  string    `json:"input"`
		Width  int64     `json:"width"`
		Output string    `json:"output"`
		Answer []float32 `json:"answer"`
	}
	text, err := os.ReadFile(expect)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(text, &model); err != nil {
		return err
	}
	raw, err := os.ReadFile(request)
	if err != nil {
		return err
	}
	if int64(len(raw)) != 4*model.Width {
		return fmt.Errorf("--row: expected %d bytes, got %d", 4*model.Width, len(raw))
	}
	ort.SetSharedLibraryPath(library)
	if err := ort.InitializeEnvironment(); err != nil {
		return err
	}
	options, err := ort.NewSessionOptions()
	if err != nil {
		return err
	}
	if err := options.SetIntraOpNumThreads(1); err != nil {
		return err
	}
	session, err := ort.NewDynamicAdvancedSession(graph, []string{model.Input}, []string{model.Output}, options)
	if err != nil {
		return err
	}
	shape := ort.NewShape(1, int64(len(model.Answer)))
	if model.Output == "mean" {
		shape = ort.NewShape(1)
	}
	var made []generator.Caller
	for range callers {
		row := make([]float32, model.Width)
		for i := range row {
			row[i] = math.Float32frombits(uint32(raw[4*i]) | uint32(raw[4*i+1])<<8 | uint32(raw[4*i+2])<<16 | uint32(raw[4*i+3])<<24)
		}
		in, err := ort.NewTensor(ort.NewShape(1, model.Width), row)
		if err != nil {
			return err
		}
		scores := make([]float32, len(model.Answer))
		out, err := ort.NewTensor(shape, scores)
		if err != nil {
			return err
		}
		ins, outs := []ort.Value{in}, []ort.Value{out}
		made = append(made, func(look bool) error {
			if err := session.Run(ins, outs); err != nil {
				return err
			}
			for i, want := range model.Answer {
				if look && !(math.Abs(float64(scores[i]-want)) <= 1e-5) {
					return fmt.Errorf("expected %v, got %v", want, scores[i])
				}
			}
			return nil
		})
	}
	plan := generator.Plan{
		Callers: made, Warm: time.Duration(warm * 1e9), Measured: time.Duration(seconds * 1e9), Server: process.Of(os.Getpid()),
	}
	return json.NewEncoder(os.Stdout).Encode(plan.Run())
}
