// SPDX-License-Identifier: Apache-2.0

package ort

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/concord-inference/concord/go/internal/generate"
	"github.com/concord-inference/concord/go/internal/modeltest"
)

var questions = []string{
	"What is the capital of France?", "Count to ten.", "Speak Japanese.", "Who are you?", "Tell me a story.", "Name three colors.", "Say hello.",
	"What is 2+2?", "What is the capital of Japan?",
}

func tinySettings(t testing.TB) *generate.Settings {
	t.Helper()
	settings, err := generate.ParseSettings(tinyFiles(t)[generate.SettingsName])
	if err != nil {
		t.Fatal(err)
	}
	return settings
}

func tinyGraph(t testing.TB) ([]byte, map[string][]byte) {
	t.Helper()
	graph, err := os.ReadFile(filepath.Join(modeltest.TinyChat(t), "model.onnx"))
	if err != nil {
		t.Fatal(err)
	}
	files := map[string][]byte{}
	if data, err := os.ReadFile(filepath.Join(modeltest.TinyChat(t), "model.onnx.data")); err == nil {
		files["model.onnx.data"] = data
	}
	return graph, files
}

func tinyDecoder(t testing.TB, slots int) *decoder {
	t.Helper()
	graph, files := tinyGraph(t)
	d, err := open(t).OpenDecoder(graph, files, tinySettings(t), generate.Sizes{Slots: slots, Bytes: 1 << 30, Threads: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.Close)
	return d.(*decoder)
}

// prompts are the questions' tokens.
func prompts(t testing.TB) [][]int32 {
	t.Helper()
	tok := tinyTokenizer(t)
	var all [][]int32
	for _, q := range questions {
		text, err := tok.Template(fmt.Sprintf(`[{"role":"user","content":%q}]`, q))
		if err != nil {
			t.Fatal(err)
		}
		tokens, err := tok.Encode(text)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, tokens)
	}
	return all
}

func run(t testing.TB, d generate.Decoder, rows ...generate.Row) [][]float32 {
	t.Helper()
	logits, err := d.Run(context.Background(), rows)
	if err != nil {
		t.Fatal(err)
	}
	if len(logits) != len(rows) {
		t.Fatalf("%d rows of logits for %d", len(logits), len(rows))
	}
	for _, row := range logits {
		if len(row) != d.Vocabulary() {
			t.Fatalf("%d logits of %d", len(row), d.Vocabulary())
		}
	}
	return logits
}

// pick chooses a token by its logit and by noise that depends on nothing but the position: what comes out is varied, whatever the weights, and
// the same wherever the logits are.
func pick(logits []float32, position int) int32 {
	noise := rand.New(rand.NewPCG(uint64(position), 7))
	best, most := 0, math.Inf(-1)
	for i, logit := range logits {
		if score := float64(logit) + noise.Float64(); score > most {
			best, most = i, score
		}
	}
	return int32(best)
}

// wanted is how many tokens the answer to a prompt has.
func wanted(prompt []int32) int { return 20 + len(prompt)*7%90 }

// alone generates with one slot only, its prompt whole.
func alone(t testing.TB, d generate.Decoder, slot int, prompt []int32) []int32 {
	t.Helper()
	answer := []int32{pick(run(t, d, generate.Row{Slot: slot, Tokens: prompt})[0], len(prompt))}
	for position := len(prompt); len(answer) < wanted(prompt); position++ {
		logits := run(t, d, generate.Row{Slot: slot, Position: position, Tokens: answer[len(answer)-1:]})
		answer = append(answer, pick(logits[0], position+1))
	}
	return answer
}

func TestDecoderSizes(t *testing.T) {
	d := tinyDecoder(t, 1)
	if d.Slots() != 1 || d.Context() != 512 || d.Vocabulary() != 259 || d.CacheBytes() != 2*2*2*512*16*4 || !slices.Equal(d.EndTokens(), []int32{2}) {
		t.Errorf("%d slots of %d tokens of %d, %d bytes, ends %v", d.Slots(), d.Context(), d.Vocabulary(), d.CacheBytes(), d.EndTokens())
	}
}

func TestDecoderAnswers(t *testing.T) {
	d := tinyDecoder(t, 1)
	all := prompts(t)
	for i, want := range map[int]string{0: "The capital of France is Paris.", 2: "こんにちは世界 🐒"} {
		var text []byte
		next := largest(run(t, d, generate.Row{Tokens: all[i]})[0])
		for position := len(all[i]); !slices.Contains(d.EndTokens(), int32(next)) && position < d.Context(); position++ {
			text = append(text, byte(next-3)) // the token of a byte is 3 more
			next = largest(run(t, d, generate.Row{Position: position, Tokens: []int32{int32(next)}})[0])
		}
		if string(text) != want {
			t.Errorf("%s: got %q, want %q", questions[i], text, want)
		}
	}
}

// generation is one of several in the test below.
type generation struct {
	prompt, answer []int32
	held           int
}

// TestDecoderJoined lets generations join and leave at any time, prompts in chunks of any size between the others' steps, and the last slot
// move into each hole: every one says what it says alone.
func TestDecoderJoined(t *testing.T) {
	all := prompts(t)
	single := tinyDecoder(t, 1)
	want := make([][]int32, len(all))
	for i, prompt := range all {
		want[i] = alone(t, single, 0, prompt)
	}
	const slots = 4
	d := tinyDecoder(t, slots)
	for seed := range uint64(10) {
		random := rand.New(rand.NewPCG(seed, 0))
		var active []*generation // by slot
		waiting := random.Perm(len(all))
		finished, moves := 0, 0
		for range 10000 {
			if len(active) < slots && len(waiting) > 0 && random.IntN(4) == 0 {
				active = append(active, &generation{prompt: all[waiting[0]]})
				waiting = waiting[1:]
			}
			if len(active) == 0 && len(waiting) == 0 {
				break
			}
			// One chunk of the first whose prompt is not read.
			if i := slices.IndexFunc(active, func(g *generation) bool { return g.held < len(g.prompt) }); i >= 0 {
				g := active[i]
				chunk := g.prompt[g.held:min(len(g.prompt), g.held+1+random.IntN(20))]
				logits := run(t, d, generate.Row{Slot: i, Position: g.held, Tokens: chunk})
				if g.held += len(chunk); g.held == len(g.prompt) {
					g.answer = append(g.answer, pick(logits[0], g.held))
				}
			}
			var rows []generate.Row
			var decoding []*generation
			for i, g := range active {
				if len(g.answer) > 0 && len(g.answer) < wanted(g.prompt) {
					rows = append(rows, generate.Row{Slot: i, Position: g.held, Tokens: g.answer[len(g.answer)-1:]})
					decoding = append(decoding, g)
				}
			}
			if len(rows) > 0 {
				for i, logits := range run(t, d, rows...) {
					decoding[i].held++
					decoding[i].answer = append(decoding[i].answer, pick(logits, decoding[i].held))
				}
			}
			for i := 0; i < len(active); i++ {
				g := active[i]
				if len(g.answer) < wanted(g.prompt) {
					continue
				}
				which := slices.IndexFunc(all, func(p []int32) bool { return slices.Equal(p, g.prompt) })
				if !slices.Equal(g.answer, want[which]) {
					t.Fatalf("seed %d, %s: got %v, alone %v", seed, questions[which], g.answer, want[which])
				}
				finished++
				last := len(active) - 1
				if i != last {
					d.Move(last, i, active[last].held)
					active[i] = active[last]
					moves++
				}
				active = active[:last]
				i--
			}
		}
		if finished != len(all) || seed == 0 && moves == 0 {
			t.Fatalf("seed %d: %d of %d finished, %d moves", seed, finished, len(all), moves)
		}
	}
}

// TestChunks holds prompts in chunks of every size against the whole, by their logits.
func TestChunks(t *testing.T) {
	d := tinyDecoder(t, 3)
	prompt := slices.Concat(prompts(t)...)
	prompt = prompt[:min(len(prompt), 300)]
	whole := slices.Clone(run(t, d, generate.Row{Slot: 0, Tokens: prompt})[0])
	worst := 0.0
	for _, size := range []int{1, 2, 7, 16, 64, 100, 299} {
		var logits []float32
		for at := 0; at < len(prompt); at += size {
			logits = run(t, d, generate.Row{Slot: 2, Position: at, Tokens: prompt[at:min(len(prompt), at+size)]})[0]
		}
		for i := range whole {
			worst = max(worst, math.Abs(float64(whole[i]-logits[i])))
		}
	}
	t.Logf("largest difference of a logit: %g", worst)
	if worst > 1e-3 {
		t.Errorf("a logit differs by %g", worst)
	}
}

func TestDecoderChecks(t *testing.T) {
	d := tinyDecoder(t, 2)
	row := func(slot, position int, tokens ...int32) generate.Row {
		return generate.Row{Slot: slot, Position: position, Tokens: tokens}
	}
	long := make([]int32, 513)
	for _, c := range []struct {
		want string
		rows []generate.Row
	}{
		{"expected a row, got none", nil},
		{"expected a slot from 0 to 1, got 2", []generate.Row{row(2, 0, 1)}},
		{"expected a slot from 0 to 1, got -1", []generate.Row{row(-1, 0, 1)}},
		{"expected a slot from 1 to 1, got 0", []generate.Row{row(0, 0, 1), row(0, 0, 1)}},
		{"slot 0: expected one token, got 0", []generate.Row{row(0, 0)}},
		{"slot 0: expected one token, got 2", []generate.Row{row(0, 0, 1, 2), row(1, 0, 1)}},
		{"slot 1: expected a position from 0 to 0, got 1", []generate.Row{row(1, 1, 1)}},
		{"slot 1: expected a position from 0 to 0, got -1", []generate.Row{row(1, -1, 1)}},
		{"slot 1: expected at most 512 tokens, got 513", []generate.Row{row(1, 0, long...)}},
		{"slot 0: expected tokens from 0 to 258, got 259", []generate.Row{row(0, 0, 259)}},
		{"slot 0: expected tokens from 0 to 258, got -1", []generate.Row{row(0, 0, -1)}},
	} {
		if _, err := d.Run(context.Background(), c.rows); err == nil || err.Error() != c.want {
			t.Errorf("got %v, want %s", err, c.want)
		}
	}
	// To the last token, and not beyond; beside a slot that is full, others go on.
	run(t, d, row(0, 0, long[:511]...))
	run(t, d, row(0, 511, 5))
	if _, err := d.Run(context.Background(), []generate.Row{row(0, 512, 5)}); err == nil || err.Error() != "slot 0: expected at most 512 tokens, got 513" {
		t.Errorf("got %v", err)
	}
	run(t, d, row(1, 0, 5, 6))
	run(t, d, row(1, 2, 7))
	defer func() {
		if recover() == nil {
			t.Error("more was moved than there is")
		}
	}()
	d.Move(1, 0, 4)
}

// TestFullSlotBesides joins rows over a slot that is full and has no row itself.
func TestFullSlotBesides(t *testing.T) {
	d := tinyDecoder(t, 3)
	full := make([]int32, d.Context())
	alone := make([]float32, d.Vocabulary())
	run(t, d, generate.Row{Slot: 2, Tokens: []int32{5, 6}})
	copy(alone, run(t, d, generate.Row{Slot: 2, Position: 2, Tokens: []int32{7}})[0])
	run(t, d, generate.Row{Slot: 1, Tokens: full})
	run(t, d, generate.Row{Slot: 0, Tokens: []int32{5, 6}})
	both := run(t, d, generate.Row{Slot: 0, Position: 2, Tokens: []int32{7}}, generate.Row{Slot: 2, Position: 2, Tokens: []int32{7}})
	for i := range both {
		for token, logit := range both[i] {
			if math.Abs(float64(logit-alone[token])) > 1e-3 {
				t.Fatalf("row %d: a logit is %g, alone %g", i, logit, alone[token])
			}
		}
	}
}

// TestDecoderEnds cancels a run before it, amid it, and goes on afterwards as if nothing had been.
func TestDecoderEnds(t *testing.T) {
	d := tinyDecoder(t, 2)
	prompt := prompts(t)[4]
	want := alone(t, d, 0, prompt)
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := d.Run(ended, []generate.Row{{Tokens: prompt}}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	long := make([]int32, d.Context())
	cancelled := 0
	for i := range 200 {
		ctx, cancel := context.WithCancel(context.Background())
		timer := time.AfterFunc(time.Duration(i)*20*time.Microsecond, cancel)
		_, err := d.Run(ctx, []generate.Row{{Slot: 1, Tokens: long}})
		if err != nil && !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
		if err != nil {
			cancelled++
		}
		timer.Stop()
		cancel()
	}
	if cancelled == 0 {
		t.Error("no run was cancelled")
	}
	t.Logf("%d of 200 cancelled", cancelled)
	if got := alone(t, d, 0, prompt); !slices.Equal(got, want) {
		t.Errorf("got %v, before %v", got, want)
	}
	if got := alone(t, d, 1, prompt); !slices.Equal(got, want) {
		t.Errorf("got %v, before %v", got, want)
	}
}

// TestDecoderLeaks opens and closes decoders, and runs one for long: memory stays as it is.
func TestDecoderLeaks(t *testing.T) {
	graph, files := tinyGraph(t)
	settings := tinySettings(t)
	life := func(steps int) {
		d, err := open(t).OpenDecoder(graph, files, settings, generate.Sizes{Slots: 4, Bytes: 1 << 30, Threads: 1})
		if err != nil {
			t.Fatal(err)
		}
		defer d.Close()
		rows := []generate.Row{{Slot: 0, Tokens: []int32{1}}, {Slot: 2, Tokens: []int32{2}}, {Slot: 3, Tokens: []int32{3}}}
		for step := range steps {
			for i := range rows {
				rows[i].Position = step % d.Context()
			}
			run(t, d, rows...)
			run(t, d, generate.Row{Slot: 1, Tokens: []int32{1, 2, 3, 4, int32(step % 200)}[:1+step%5]})
		}
	}
	life(2000)
	before := resident(t)
	for range 20 {
		life(10)
	}
	life(10000)
	if grown := resident(t) - before; grown > 16<<20 {
		t.Errorf("%d KiB are left", grown>>10)
	}
}

func TestDecoderRefused(t *testing.T) {
	graph, files := tinyGraph(t)
	for want, change := range map[string]func(*generate.Settings, *generate.Sizes){
		`input "past_key_values.2.key": expected float [-1, 2, -1, 16], got nothing`: func(s *generate.Settings, _ *generate.Sizes) { s.Layers = 3 },
		`input "past_key_values.1.key": expected none of this name`:                  func(s *generate.Settings, _ *generate.Sizes) { s.Layers = 1 },
		`input "past_key_values.0.key": expected float or float16 [-1, 3, -1, 16], got float [-1, 2, -1, 16]`: func(s *generate.Settings, _ *generate.Sizes) {
			s.Heads = 3
		},
		`input "past_key_values.0.key": expected float or float16 [-1, 2, -1, 32], got float [-1, 2, -1, 16]`: func(s *generate.Settings, _ *generate.Sizes) {
			s.HeadSize = 32
		},
		`input "tokens": expected int64 [-1, -1], got nothing`:                                       func(s *generate.Settings, _ *generate.Sizes) { s.InputIDs = "tokens" },
		`output "present.0.key": expected float or float16 [-1, -1, 259], got float [-1, 2, -1, 16]`: func(s *generate.Settings, _ *generate.Sizes) { s.Logits = "present.0.key" },
		`expected an input and an output for each name, got names that are equal`:                    func(s *generate.Settings, _ *generate.Sizes) { s.PresentVal = s.PresentKey },
		`expected memory for one token in each of 100 slots, 51200 bytes, got less`:                  func(_ *generate.Settings, z *generate.Sizes) { z.Slots, z.Bytes = 100, 51199 },
	} {
		settings, sizes := tinySettings(t), generate.Sizes{Slots: 2, Bytes: 1 << 30, Threads: 1}
		change(settings, &sizes)
		d, err := open(t).OpenDecoder(graph, files, settings, sizes)
		if err == nil {
			d.Close()
			t.Errorf("made; want %s", want)
		} else if err.Error() != want {
			t.Errorf("got %v, want %s", err, want)
		}
	}
	settings := tinySettings(t)
	settings.Vocabulary = 260
	if _, err := open(t).OpenDecoder(graph, files, settings, generate.Sizes{Slots: 1, Bytes: 1 << 30}); err == nil || !strings.Contains(err.Error(), `output "logits": expected`) {
		t.Errorf("got %v", err)
	}
}

// BenchmarkDecoderStep measures a joined step of tiny-chat, and what of it is not ONNX Runtime's own: steps and bare repetitions of the same
// bound run take turns.
func BenchmarkDecoderStep(b *testing.B) {
	for _, rows := range []int{1, 4, 8} {
		b.Run(fmt.Sprint(rows), func(b *testing.B) {
			d := tinyDecoder(b, rows)
			list := make([]generate.Row, rows)
			for i := range list {
				list[i] = generate.Row{Slot: i, Tokens: []int32{5}}
			}
			list[rows-1].Tokens = []int32{6}
			step := 0
			var whole, bare []time.Duration
			b.ReportAllocs()
			for b.Loop() {
				for i := range list {
					list[i].Position = step % d.Context()
				}
				begin := time.Now()
				if _, err := d.Run(context.Background(), list); err != nil {
					b.Fatal(err)
				}
				whole = append(whole, time.Since(begin))
				used := d.joined[rows-1]
				if rows == 1 {
					used = d.alone[0]
				}
				begin = time.Now()
				if err := d.execute(used); err != nil {
					b.Fatal(err)
				}
				bare = append(bare, time.Since(begin))
				step++
			}
			slices.Sort(whole)
			slices.Sort(bare)
			median := func(list []time.Duration) float64 { return float64(list[len(list)/2].Nanoseconds()) }
			b.ReportMetric(median(whole), "ns/step")
			b.ReportMetric(median(bare), "ns/bare-run")
			b.ReportMetric(median(whole)-median(bare), "ns/overhead")
		})
	}
}
