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
		return s.pickOf(s.weigh(w), number), nil
	}
	// Most picks fall among the likeliest; which one it is, a sum of all that is nearly right mostly tells.
	low, high := w.total(logits)
	for _, octaves := range [...]float64{7, 14, weightBits} {
		s.collect(logits, w, w.reach(octaves))
		if low < high && len(s.candidates) > many {
			low = w.exactTotal(logits)
			high = low
		}
		token, found := s.pick(low, high, number)
		if found == several {
			low = w.exactTotal(logits)
			high = low
			token, found = s.pick(low, high, number)
		}
		if found == one {
			return token, nil
		}
	}
	return s.pickOf(w.exactTotal(logits), number), nil // all are collected
}

// many is how many tokens share what is likely where a sum that is nearly right tells none from the next.
const many = 2048

// likeliest is the first of the tokens' order; false is that there is none.
func likeliest(logits []float32) (at int, ok bool) {
	most := float32(math.Inf(-1))
	at = -1
	for start := 0; start < len(logits); start += 8 {
		if start+8 <= len(logits) {
			// Seldom is one of eight the greatest so far, or NaN.
			x := logits[start : start+8 : start+8]
			if x[0] <= most && x[1] <= most && x[2] <= most && x[3] <= most && x[4] <= most && x[5] <= most && x[6] <= most && x[7] <= most {
				continue
			}
		}
		for i, logit := range logits[start:min(start+8, len(logits))] {
			if !(logit <= most) {
				if logit != logit {
					return 0, false
				}
				most, at = logit, start+i
			}
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

// collect collects the tokens from bound on, weighed.
func (s *sampler) collect(logits []float32, w weigher, bound float32) {
	c := s.candidates[:0]
	for start := 0; start < len(logits); start += 8 {
		if start+8 <= len(logits) {
			x := logits[start : start+8 : start+8]
			if x[0] < bound && x[1] < bound && x[2] < bound && x[3] < bound && x[4] < bound && x[5] < bound && x[6] < bound && x[7] < bound {
				continue
			}
		}
		for i, logit := range logits[start:min(start+8, len(logits))] {
			if logit >= bound {
				c = append(c, candidate{logit, int32(start + i), w.weight(logit)})
			}
		}
	}
	s.candidates = c
}

// nucleus is top_p in 2^-64ths, 0 where it limits nothing.
func (s *sampler) nucleus() uint64 {
	if s.TopP <= 0 || s.TopP >= 1 {
		return 0
	}
	return max(1, uint64(math.Ldexp(float64(s.TopP), 64)))
}

// finding is what pick finds.
type finding int

const (
	one     finding = iota // the token
	several                // it depends on the total
	none                   // it is not among those collected
)

// pick is the token that the number picks among those collected, which are a beginning of the order, where that is the same for every total from low
// to high.
func (s *sampler) pick(low, high, number uint64) (int32, finding) {
	collected := uint64(0)
	for i := range s.candidates {
		collected += s.candidates[i].weight
	}
	// The sum that the beginning of the order has to come to: that of those that stay, or that of those up to the token.
	share, more := number, uint64(1)
	if nucleus := s.nucleus(); nucleus > 0 {
		share, more = nucleus, 0
	}
	least, _ := bits.Mul64(share, low)
	most, _ := bits.Mul64(share, high)
	least, most = max(1, least+more), max(1, most+more)
	if most > collected {
		return 0, none
	}
	n, sum := beginning(s.candidates, least)
	if sum < most {
		return 0, several
	}
	if more == 0 {
		r, _ := bits.Mul64(number, sum)
		n, _ = beginning(s.candidates[:n], r+1)
	}
	return s.candidates[n-1].id, one
}

// pickOf is the token that the number picks where the total is known and all that weighs anything is collected.
func (s *sampler) pickOf(total, number uint64) int32 {
	token, _ := s.pick(total, total, number)
	return token
}
