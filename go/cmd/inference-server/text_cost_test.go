// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/concord-inference/concord/go/internal/generate"
	"github.com/concord-inference/concord/go/internal/modeltest"
	"github.com/concord-inference/concord/go/internal/ort"
)

// TestTextCost measures the processor time of the server for each token of a stream beyond what the decoder itself takes for it, as the kernel counts both:
// what engine, sampling and gRPC cost. Rounds of tiny-chat's bare decoder take turns with rounds of the server. It wants quiet cores, and runs where
// CONCORD_COST_ROUNDS says how many rounds (7, say).
func TestTextCost(t *testing.T) {
	rounds, _ := strconv.Atoi(os.Getenv("CONCORD_COST_ROUNDS"))
	if rounds == 0 {
		t.Skip("CONCORD_COST_ROUNDS is not set")
	}
	const texts = 30 // in each round, of each stream
	for _, threads := range []int{1, runtime.NumCPU()} {
		d := bareDecoder(t, threads)
		for _, streams := range []int{1, 4} {
			p, client := chat(t, "--intra-op-threads", strconv.Itoa(threads))
			var bare, whole, walls, bareWalls []float64
			for range rounds {
				begin, clock := ownTime(t), time.Now()
				tokens := 0
				for range texts {
					tokens += d.decode(t, streams)
				}
				bare = append(bare, (ownTime(t)-begin)*1e6/float64(tokens))
				bareWalls = append(bareWalls, float64(time.Since(clock).Microseconds())/float64(tokens))

				before, clock := processor(t, p.ready.PID), time.Now()
				count := make([]int, streams)
				var all sync.WaitGroup
				for s := range streams {
					all.Go(func() {
						for range texts {
							_, last, err := streamed(client, t.Context(), asks(story))
							if err != nil {
								t.Error(err)
								return
							}
							count[s] += int(last.GetUsage().GetCompletionTokens())
						}
					})
				}
				all.Wait()
				tokens = 0
				for _, n := range count {
					tokens += n
				}
				whole = append(whole, (processor(t, p.ready.PID)-before)*1e6/float64(tokens))
				walls = append(walls, float64(time.Since(clock).Microseconds())/float64(tokens))
			}
			t.Logf("%d threads, %d streams: CPU us per token: server %.1f, bare decoder %.1f, overhead %.1f; wall us per token: %.1f and %.1f",
				threads, streams, median(whole), median(bare), median(whole)-median(bare), median(walls), median(bareWalls))
			p.stop(t, syscall.SIGTERM)
		}
	}
}

// bare is tiny-chat's decoder without a server.
type bare struct {
	generate.Decoder
	prompt []int32
	steps  int
}

func bareDecoder(t *testing.T, threads int) *bare {
	library, err := ort.Open(modeltest.Library(t), 1)
	if err != nil {
		t.Fatal(err)
	}
	directory := "../../../conformance/fixtures/tiny-chat/1"
	files := map[string][]byte{}
	for _, name := range []string{"model.onnx", generate.SettingsName} {
		if files[name], err = os.ReadFile(filepath.Join(directory, name)); err != nil {
			t.Fatal(err)
		}
	}
	settings, err := generate.ParseSettings(files[generate.SettingsName])
	if err != nil {
		t.Fatal(err)
	}
	d, err := library.OpenDecoder(files["model.onnx"], nil, settings, generate.Sizes{Slots: 8, Bytes: 1 << 30, Threads: threads})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.Close)
	prompt := make([]int32, 36) // as many as the story's
	for i := range prompt {
		prompt[i] = int32(3 + i)
	}
	return &bare{Decoder: d, prompt: prompt, steps: len(answers[story])}
}

// decode generates as many tokens as the story has, in so many slots, and says how many they are together.
func (b *bare) decode(t *testing.T, slots int) int {
	rows := make([]generate.Row, slots)
	for slot := range rows {
		if _, err := b.Run(context.Background(), []generate.Row{{Slot: slot, Tokens: b.prompt}}); err != nil {
			t.Fatal(err)
		}
		rows[slot] = generate.Row{Slot: slot, Tokens: []int32{5}}
	}
	for step := range b.steps {
		for i := range rows {
			rows[i].Position = len(b.prompt) + step
		}
		logits, err := b.Run(context.Background(), rows)
		if err != nil {
			t.Fatal(err)
		}
		for i := range rows {
			best := 0
			for id, logit := range logits[i] {
				if logit > logits[i][best] {
					best = id
				}
			}
			rows[i].Tokens[0] = int32(best)
		}
	}
	return slots * (b.steps + 1)
}

// ownTime is the processor time that this process has used, in seconds.
func ownTime(t *testing.T) float64 {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		t.Fatal(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano()).Seconds()
}
