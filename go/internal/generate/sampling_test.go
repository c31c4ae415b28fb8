// SPDX-License-Identifier: Apache-2.0

package generate

import (
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sort"
	"strconv"
	"testing"
	"time"

	inferencev1 "github.com/concord-inference/concord/go/gen/inference/v1"
	"github.com/concord-inference/concord/go/internal/fault"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"
)

// readVectors reads a file of conformance/sampling.
func readVectors(t testing.TB, name string, into any) {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("../../../conformance/sampling", name))
	if err == nil {
		err = json.Unmarshal(data, into)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// single is a float32 as its bits in hexadecimal.
type single float32

func (s *single) UnmarshalText(text []byte) error {
	var bits [4]byte
	_, err := hex.Decode(bits[:], text)
	*s = single(math.Float32frombits(binary.BigEndian.Uint32(bits[:])))
	return err
}

type logitsVector struct {
	Bits []single
	Bell *struct {
		Vocabulary    int
		Seed          uint32
		Shift, Spread int
	}
	Replaced map[int]single
}

func (v *logitsVector) make() []float32 {
	var logits []float32
	for _, bits := range v.Bits {
		logits = append(logits, float32(bits))
	}
	if v.Bell == nil {
		return logits
	}
	for i := range v.Bell.Vocabulary {
		total := -131072
		for _, word := range philox([4]uint32{uint32(i)}, [2]uint32{v.Bell.Seed}) {
			total += int(word >> 16)
		}
		total = max(-v.Bell.Spread, min(total, v.Bell.Spread))
		logits = append(logits, float32(math.Ldexp(float64(total), -v.Bell.Shift)))
	}
	for token, logit := range v.Replaced {
		logits[token] = float32(logit)
	}
	return logits
}

func TestPicks(t *testing.T) {
	var cases []struct {
		Name        string
		Logits      logitsVector
		Temperature single
		TopK        int    `json:"top_k"`
		TopP        single `json:"top_p"`
		Seed        string
		Stay        int
		Picks       [][2]int
	}
	readVectors(t, "picks.json", &cases)
	if len(cases) < 100 {
		t.Fatalf("%d cases", len(cases))
	}
	for _, c := range cases {
		t.Run(c.Name, func(t *testing.T) {
			seed, err := strconv.ParseUint(c.Seed, 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			logits := c.Logits.make()
			before := slices.Clone(logits)
			s := newSampler(Sampling{float32(c.Temperature), c.TopK, float32(c.TopP), seed})
			if c.Stay == 0 {
				_, f := s.next(logits, 0)
				if f == nil || f.Reason != fault.ModelExecutionFailed {
					t.Errorf("got %v", f)
				}
				return
			}
			for _, pick := range c.Picks {
				got, f := s.next(logits, pick[0])
				if f != nil || int(got) != pick[1] {
					t.Errorf("index %d: got %d (%v), want %d", pick[0], got, f, pick[1])
				}
			}
			if !slices.EqualFunc(before, logits, func(a, b float32) bool { return math.Float32bits(a) == math.Float32bits(b) }) {
				t.Error("the logits were changed")
			}
		})
	}
}

func TestWeights(t *testing.T) {
	var cases []struct {
		Logit, Most, Temperature single
		Weight                   string
	}
	readVectors(t, "weights.json", &cases)
	if len(cases) < 700 {
		t.Fatalf("%d cases", len(cases))
	}
	for _, c := range cases {
		if got := newWeigher(float32(c.Most), float32(c.Temperature)).weight(float32(c.Logit)); strconv.FormatUint(got, 10) != c.Weight {
			t.Errorf("%+v: got %d", c, got)
		}
	}
}

func TestSeeds(t *testing.T) {
	var cases []struct {
		RequestID string `json:"request_id"`
		Seed      string
	}
	readVectors(t, "seeds.json", &cases)
	for _, c := range cases {
		if got := strconv.FormatUint(NewSampling(&inferencev1.InferenceConfig{Temperature: 1}, c.RequestID).Seed, 10); got != c.Seed {
			t.Errorf("%q: got %s, want %s", c.RequestID, got, c.Seed)
		}
		for _, seed := range []uint64{0, math.MaxUint64} {
			if got := NewSampling(&inferencev1.InferenceConfig{Temperature: 1, Seed: proto.Uint64(seed)}, c.RequestID).Seed; got != seed {
				t.Errorf("%q: got %d, want %d", c.RequestID, got, seed)
			}
		}
		if got := NewSampling(&inferencev1.InferenceConfig{Seed: proto.Uint64(7)}, c.RequestID); got.Seed != 0 || !got.Greedy() {
			t.Errorf("greedy: got %+v", got)
		}
	}
	if got := NewSampling(nil, ""); got != (Sampling{}) {
		t.Errorf("no config: got %+v", got)
	}
	drawn := map[uint64]bool{}
	for range 64 {
		drawn[NewSampling(&inferencev1.InferenceConfig{Temperature: 1}, "").Seed] = true
	}
	if len(drawn) != 64 {
		t.Errorf("%d of 64 seeds differ", len(drawn))
	}
}

// plainly does what docs/sampling.md says without any haste.
func plainly(logits []float32, s Sampling, index int) int32 {
	order := make([]candidate, len(logits))
	for i, logit := range logits {
		order[i] = candidate{logit: logit, id: int32(i)}
	}
	sort.SliceStable(order, func(i, j int) bool { return order[i].logit > order[j].logit })
	if s.Greedy() {
		return order[0].id
	}
	if s.TopK > 0 {
		order = order[:min(s.TopK, len(order))]
	}
	w := newWeigher(order[0].logit, s.Temperature)
	total := uint64(0)
	for i := range order {
		order[i].weight = w.weight(order[i].logit)
		total += order[i].weight
	}
	until := func(least uint64) (int, uint64) {
		sum := uint64(0)
		for i := range order {
			if sum += order[i].weight; sum >= least {
				return i, sum
			}
		}
		return -1, 0
	}
	upper := func(x, y uint64) uint64 { // the upper half of the product, digit by digit
		const half = 1<<32 - 1
		low := (x & half) * (y & half)
		middle := (x>>32)*(y&half) + low>>32
		return (x>>32)*(y>>32) + middle>>32 + ((x&half)*(y>>32)+middle&half)>>32
	}
	if s.TopP > 0 && s.TopP < 1 {
		_, total = until(max(1, upper(uint64(float64(s.TopP)*(1<<64)), total)))
	}
	at, _ := until(upper(random(s.Seed, index), total) + 1)
	return order[at].id
}

// FuzzNext holds the ways that are fast against the plain one.
func FuzzNext(f *testing.F) {
	f.Add(uint64(1), uint16(259), float32(3), float32(0.8), 0, float32(0.95), false)
	f.Add(uint64(2), uint16(20000), float32(1), float32(1), 40, float32(0), true)
	f.Add(uint64(3), uint16(30000), float32(2), float32(100), 0, float32(0.5), true)
	f.Add(uint64(4), uint16(30000), float32(0), float32(1), 9000, float32(0.5), false)
	f.Add(uint64(5), uint16(1), float32(9), float32(1e-40), 0, float32(1e-30), false)
	f.Add(uint64(6), uint16(9000), float32(1e37), float32(7), 0, float32(0), false)
	f.Add(uint64(7), uint16(3), float32(1e-45), float32(1e-45), 0, float32(0), false)
	f.Add(uint64(8), uint16(300), float32(1e-42), float32(1e-43), 0, float32(0.9), false)
	f.Add(uint64(9), uint16(300), float32(1e-38), float32(1e-38), 0, float32(0), false)
	f.Fuzz(func(t *testing.T, seed uint64, size uint16, spread, temperature float32, topK int, topP float32, rounded bool) {
		if size == 0 || !(temperature >= 0 && temperature <= 100) || topK < 0 || !(topP >= 0 && topP <= 1) || spread-spread != 0 {
			return
		}
		source := rand.New(rand.NewPCG(seed, 0))
		logits := make([]float32, size)
		for i := range logits {
			logit := source.NormFloat64() * float64(spread)
			if rounded {
				logit = math.Round(logit)
			}
			logits[i] = float32(max(-math.MaxFloat32, min(logit, math.MaxFloat32)))
			if source.IntN(50) == 0 {
				logits[i] = float32(math.Inf(-1))
			}
		}
		logits[source.IntN(int(size))] = float32(spread)
		if most := slices.Max(logits); temperature > 0 {
			w := newWeigher(most, temperature)
			low, high := w.total(logits)
			if exact := w.exactTotal(logits); low > exact || exact > high || high-low > exact/512+4*uint64(size) {
				t.Fatalf("the weight of all is %d, not from %d to %d", exact, low, high)
			}
		}
		s := newSampler(Sampling{temperature, topK, topP, seed})
		for index := range 8 {
			got, fault := s.next(logits, index)
			if want := plainly(logits, s.Sampling, index); fault != nil || got != want {
				t.Fatalf("index %d: got %d (%v), want %d", index, got, fault, want)
			}
		}
	})
}

// FuzzBeginning holds the selection against sorting.
func FuzzBeginning(f *testing.F) {
	f.Add(uint64(1), uint16(100), uint8(3))
	f.Add(uint64(2), uint16(5000), uint8(255))
	f.Add(uint64(3), uint16(25), uint8(0))
	f.Fuzz(func(t *testing.T, seed uint64, size uint16, kinds uint8) {
		source := rand.New(rand.NewPCG(seed, 1))
		c := make([]candidate, int(size)%6000+1)
		total := uint64(0)
		for i := range c {
			c[i] = candidate{float32(source.IntN(int(kinds) + 1)), int32(i), source.Uint64N(4)}
			total += c[i].weight
		}
		if total == 0 {
			return
		}
		sorted := slices.Clone(c)
		sort.Slice(sorted, func(i, j int) bool { return sorted[i].before(&sorted[j]) })
		least := source.Uint64N(total) + 1
		n, sum := 0, uint64(0)
		for sum < least {
			sum += sorted[n].weight
			n++
		}
		gotN, gotSum := beginning(c, least)
		if gotN != n || gotSum != sum || c[n-1] != sorted[n-1] {
			t.Fatalf("got %d of %d, %v, want %d of %d, %v", gotN, gotSum, c[gotN-1], n, sum, sorted[n-1])
		}
		ids := map[int32]bool{}
		for _, each := range sorted[:n] {
			ids[each.id] = true
		}
		for _, each := range c[:n] {
			if !ids[each.id] {
				t.Fatalf("%v is not of the beginning", each)
			}
		}
	})
}

// processorTime is what this thread has taken of a processor: others at work on the machine don't count.
func processorTime(b *testing.B) time.Duration {
	var usage unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_THREAD, &usage); err != nil {
		b.Fatal(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

// BenchmarkNext is one pick from 49,152 logits like those of a real model: a bell, and a few likely tokens far above it.
func BenchmarkNext(b *testing.B) {
	source := rand.New(rand.NewPCG(1, 2))
	logits := make([]float32, 49152)
	for i := range logits {
		logits[i] = float32(3.8*source.NormFloat64() - 3.4)
	}
	for i := range 40 {
		logits[source.IntN(len(logits))] = 17 - float32(i)/3
	}
	for _, c := range []struct {
		name string
		s    Sampling
	}{
		{"greedy", Sampling{}},
		{"temperature=0.8", Sampling{Temperature: 0.8}},
		{"temperature=1", Sampling{Temperature: 1}},
		{"temperature=0.8,top_p=0.95", Sampling{Temperature: 0.8, TopP: 0.95}},
		{"temperature=0.7,top_k=50", Sampling{Temperature: 0.7, TopK: 50}},
		{"temperature=100", Sampling{Temperature: 100}},
		{"temperature=100,top_p=0.5", Sampling{Temperature: 100, TopP: 0.5}},
	} {
		b.Run(c.name, func(b *testing.B) {
			s := newSampler(c.s)
			index := 0
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			began := processorTime(b)
			for b.Loop() {
				if _, f := s.next(logits, index); f != nil {
					b.Fatal(f)
				}
				index++
			}
			b.ReportMetric(float64(processorTime(b)-began)/float64(index), "cpu-ns/op")
		})
	}
}
