// SPDX-License-Identifier: Apache-2.0

package generate

import "math"

// steps is how many table entries an octave has: between two of them the weight is taken as a line.
const steps = 128

// fading[i] is 2^(-i/steps).
var fading = func() (table [weightBits*steps + 8]float32) {
	for i := range table {
		table[i] = float32(math.Exp2(-float64(i) / steps))
	}
	return table
}()

// slack is how far the sum of total may be from the exact one, relatively. It is some 2^-17 off: the line's share is 2^-18, rounding's 2^-18.
const slack = 1. / (1 << 14)

// total is between which two sums of weights that of all tokens is: nearly right, and much faster than the right one.
func (w weigher) total(logits []float32) (low, high uint64) {
	const slope = math.Ln2 / steps
	if w.scale > math.MaxFloat32/steps { // hardly above absolute zero
		exact := w.exactTotal(logits)
		return exact, exact
	}
	most, scale := float32(w.most), float32(w.scale*steps)
	sum := 0.
	for _, logit := range logits {
		at := min((most-logit)*scale, float32(len(fading)-1))
		i := int32(at)
		sum += float64(fading[uint32(i)] * (1 - (at-float32(i))*slope))
	}
	sum *= 1 << weightBits
	// Each weight is rounded down.
	return uint64(max(0, sum*(1-slack)-float64(len(logits)))), uint64(sum*(1+slack) + float64(len(logits)))
}

// exactTotal is the weight of all tokens.
func (w weigher) exactTotal(logits []float32) (total uint64) {
	reach := w.reach(weightBits)
	for _, logit := range logits {
		if logit >= reach {
			total += w.weight(logit)
		}
	}
	return total
}
