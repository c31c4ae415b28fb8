// SPDX-License-Identifier: Apache-2.0

package generate

import "math"

// steps is how many steps an octave has in which all weigh the same, where nearly right will do.
const steps = 1024

// fading is the weight in the middle of each step.
var fading = func() (table [weightBits*steps + 4]uint32) {
	for i := range table {
		table[i] = uint32(math.Exp2(weightBits - (float64(i)+.5)/steps))
	}
	return table
}()

// total is between which two sums of weights that of all tokens is: nearly right, and in a quarter of the time of the right one.
func (w weigher) total(logits []float32) (low, high uint64) {
	if w.scale > math.MaxFloat32/steps { // hardly above absolute zero
		exact := w.exactTotal(logits)
		return exact, exact
	}
	most, scale := float32(w.most), float32(w.scale*steps)
	sum := uint64(0)
	for _, logit := range logits {
		sum += uint64(fading[uint32(int32(min((most-logit)*scale, weightBits*steps+2)))])
	}
	// Half a step is 2^-11.5 of a weight, to which rounding adds little; and each weight is rounded down.
	slack := sum/(1<<11) + uint64(len(logits))
	return sum - min(sum, slack), sum + slack
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
