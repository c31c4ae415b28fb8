// SPDX-License-Identifier: Apache-2.0

package generate

import (
	"math"
	"math/bits"

	"github.com/concord-inference/concord/go/internal/fault"
)

// sampler picks one generation's tokens. One goroutine uses it.
type sampler struct {
	Sampling
	candidates []candidate // kept for the next token
}

func newSampler(s Sampling) *sampler { return &sampler{Sampling: s} }

// next is the token that the logits give at that index of the generation. It only depends on these and on the sampling. The logits are not changed.
func (s *sampler) next(logits []float32, index int) (int32, *fault.Fault) {
	first, ok := likeliest(logits)
	if !ok {
		return 0, fault.New(fault.ModelExecutionFailed, "the model's logits are no distribution: a NaN among them, or none that is greatest and finite")
	}
	if s.Greedy() || s.TopK == 1 {
		return int32(first), nil
	}
	number := random(s.Seed, index)
	w := newWeigher(logits[first], s.Temperature)
	if s.TopK > 0 && s.TopK < len(logits) {
		s.best(logits, w.reach(weightBits))
		return s.pick(s.weigh(w), number), nil
	}
	// Most picks fall among the likeliest: the others need a weight then, and no order.
	total := s.collect(logits, w, w.reach(octaves))
	if s.nucleus() == 0 {
		if r, _ := bits.Mul64(number, total); r < s.collected() {
			n, _ := beginning(s.candidates, r+1)
			return s.candidates[n-1].id, nil
		}
	} else if least := s.least(total); least <= s.collected() {
		return s.pick(total, number), nil
	}
	s.collect(logits, w, w.reach(weightBits))
	return s.pick(total, number), nil
}

// octaves is how much less likely than the likeliest token one is that is ordered at first.
const octaves = 7

// likeliest is the first of the tokens' order; false is that there is none.
func likeliest(logits []float32) (at int, ok bool) {
	most := float32(math.Inf(-1))
	at = -1
	for i, logit := range logits {
		if !(logit <= most) { // greater, or NaN
			if logit != logit {
				return 0, false
			}
			most, at = logit, i
		}
	}
	return at, at >= 0 && most <= math.MaxFloat32
}

// best collects the first TopK of the tokens' order, but those below bound.
func (s *sampler) best(logits []float32, bound float32) {
	k := s.TopK
	c := s.candidates[:0]
	full := min(2*k+64, len(logits))
	for i, logit := range logits {
		if !(logit > bound) {
			continue // where k are there already: a later one of equal logit is behind them
		}
		c = append(c, candidate{logit, int32(i), 1})
		if len(c) == full {
			c, bound = shorten(c, k)
		}
	}
	if len(c) > k {
		c, _ = shorten(c, k)
	}
	s.candidates = c
}

// shorten leaves the first k of more, or of as many, and gives the least of their logits. All weigh 1.
func shorten(c []candidate, k int) ([]candidate, float32) {
	n, _ := beginning(c, uint64(k))
	return c[:n], c[n-1].logit
}

// weigh sets the weights of what was collected and gives their sum.
func (s *sampler) weigh(w weigher) (total uint64) {
	for i := range s.candidates {
		weight := w.weight(s.candidates[i].logit)
		s.candidates[i].weight = weight
		total += weight
	}
	return total
}

// collect collects the tokens from bound on, and gives the weight of all tokens.
func (s *sampler) collect(logits []float32, w weigher, bound float32) (total uint64) {
	c := s.candidates[:0]
	reach := w.reach(weightBits)
	for i, logit := range logits {
		if logit < reach {
			continue
		}
		weight := w.weight(logit)
		total += weight
		if logit >= bound {
			c = append(c, candidate{logit, int32(i), weight})
		}
	}
	s.candidates = c
	return total
}

func (s *sampler) collected() (total uint64) {
	for i := range s.candidates {
		total += s.candidates[i].weight
	}
	return total
}

// nucleus is top_p in 2^-64ths, 0 where it limits nothing.
func (s *sampler) nucleus() uint64 {
	if s.TopP <= 0 || s.TopP >= 1 {
		return 0
	}
	return max(1, uint64(math.Ldexp(float64(s.TopP), 64)))
}

// least is what those that top_p leaves weigh at least, of a total.
func (s *sampler) least(total uint64) uint64 {
	least, _ := bits.Mul64(s.nucleus(), total)
	return max(1, least)
}

// pick picks among what was collected, where all that top_p leaves of the total is in it.
func (s *sampler) pick(total, number uint64) int32 {
	c := s.candidates
	if s.nucleus() > 0 {
		var n int
		n, total = beginning(c, s.least(total))
		c = c[:n]
	}
	r, _ := bits.Mul64(number, total)
	n, _ := beginning(c, r+1)
	return c[n-1].id
}
